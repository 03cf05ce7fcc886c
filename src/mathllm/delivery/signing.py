"""Signing in: the client's object, made for a program and not for a terminal."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import requests

from mathllm.delivery import credentials
from mathllm.delivery.retry import RetryPolicy, retry
from mathllm.errors import DeliveryError


def sign_in(policy: RetryPolicy, say: Callable[[str], None]) -> Any:
    """The client's object. Raises DeliveryError without credentials that Kaggle takes."""
    found = credentials.find()
    if found is None:
        raise DeliveryError(f"no Kaggle credentials: {credentials.HOW_TO}")
    refused = DeliveryError(
        f"Kaggle refuses the credentials in {found.place}: they are wrong or expired; "
        f"{credentials.HOW_TO}"
    )

    def authenticate() -> Any:
        # The client signs in as it is imported, and speaks and exits as a program would.
        with contextlib.redirect_stdout(io.StringIO()):
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
        return api

    try:
        return retry("sign in", authenticate, policy, say)
    except SystemExit:
        raise refused from None
    except requests.HTTPError as fault:
        raise refused from fault
