"""A pool of Python kernels in which blocks written by a model are run, and contained.

Knows processes, limits and messages. Knows nothing of models, prompts or problems.

    with SandboxPool(SandboxSettings(size=2)) as pool:
        with pool.session() as session:
            session.run("factorint(2026)").output    # '{2: 1, 1013: 1}'
"""

from mathllm.sandbox.kernel import KernelError
from mathllm.sandbox.pool import SandboxPool, SandboxSession
from mathllm.sandbox.result import SandboxSettings, ToolResult

__all__ = ["KernelError", "SandboxPool", "SandboxSession", "SandboxSettings", "ToolResult"]
