"""Who asks, and what they may: keys, tokens, names, the accelerators' quota.

Knows no dataset and no kernel, only the rule for what belongs to someone else.
"""

import base64
import binascii
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from standin.replies import RefusalError, moment

if TYPE_CHECKING:
    from standin.server import KaggleStandIn


def signed_in(kaggle: "KaggleStandIn", authorization: str) -> str:
    """The user's name. Raises RefusalError for credentials that are none."""
    how, _, what = authorization.partition(" ")
    if how == "Bearer" and what in kaggle.tokens:
        return kaggle.tokens[what]
    if how == "Basic":
        try:
            name, _, key = base64.b64decode(what, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            name = key = ""
        if key and kaggle.users.get(name) == key:
            return name
    raise RefusalError(401, "Unauthenticated")


def must_own(user: str, owner: str, permission: str) -> None:
    if user != owner:
        raise RefusalError(403, f"Permission '{permission}' was denied")


def introspect_token(kaggle: "KaggleStandIn", _: str, request: dict[str, Any]) -> dict[str, Any]:
    name = kaggle.tokens.get(request.get("token", ""))
    return {"active": name is not None, "username": name or ""}


def get_quota(kaggle: "KaggleStandIn", user: str, _: dict[str, Any]) -> dict[str, Any]:
    """Thirty hours a week, of which the runs so far have used theirs."""
    mine = (k for ref, k in kaggle.kernels.items() if ref.startswith(f"{user}/"))
    used = sum(min(v.age, v.run.ends) for k in mine for v in k.versions if v.gpu)
    quota = {"timeUsed": f"{int(used)}s", "totalTimeAllowed": "108000s", "hasEverRun": used > 0}
    return {"quotaRefreshTime": moment(datetime.now(UTC) + timedelta(days=3)), "gpuQuota": quota}


METHODS = {"IntrospectToken": introspect_token, "GetAcceleratorQuotaStatistics": get_quota}
