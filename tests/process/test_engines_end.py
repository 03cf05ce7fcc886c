"""A program that ends right behind its last sample ends well."""

import subprocess
import sys

import pytest

from helpers.paths import ROOT

PROGRAM = """
import torch
from helpers.models import make_backbone, random_trm
from mathllm.engines import Decoder, SamplingConfig
from mathllm.engines.flight import Flight

def land(self, own=Flight.land):
    own(self)
    large = torch.randn(1000, 1000)
    for _ in range(8):
        large @ large

Flight.land = land
row = Decoder(random_trm(make_backbone())).start([5, 6], SamplingConfig(max_new_tokens=2), 1)
assert row.wait()
print("ended")
"""


@pytest.mark.slow
def test_passes_that_are_being_put_away_do_not_take_the_program_down():
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "ended\n", "")
