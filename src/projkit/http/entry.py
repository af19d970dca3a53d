"""Where a request comes in, whatever the host has done to its scope.

Hosts disagree on what a mount leaves behind:

- Starlette, FastAPI, BlackSheep, uvicorn ``--root-path``: ``path`` is whole and begins with ``root_path``;
- hypercorn's dispatcher, WSGI-minded hosts: ``path`` is stripped and ``root_path`` holds what was stripped;
- Litestar: ``path`` is stripped and ends in ``/``, and ``root_path`` knows nothing of the mount; ``raw_path`` does.

The shim finds ``root_path`` (what stands before the kit) and the kit's own path, in a copy of the scope, so that
the host's is left as it was.
"""

from collections.abc import Callable
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from projkit.http import scope_keys


class EntryShim:
    """Gives the kit a scope of its own with ``projkit.path`` and the right ``root_path``.

    ``knows`` tells whether the kit has something at a path; it decides where a scope can be read in two ways.
    """

    def __init__(self, app: ASGIApp, knows: Callable[[str], bool]) -> None:
        self._app = app
        self._knows = knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = dict(scope)
        root_path, path = self._locate(scope)
        inner["root_path"] = root_path
        inner["path"] = root_path + path
        inner[scope_keys.PATH] = path
        try:
            await self._app(inner, receive, send)
        finally:
            if scope_keys.MATCHED_ROUTE in inner:
                scope[scope_keys.MATCHED_ROUTE] = inner[scope_keys.MATCHED_ROUTE]

    def _locate(self, scope: Scope) -> tuple[str, str]:
        path: str = scope["path"]
        root_path: str = scope.get("root_path", "").rstrip("/")
        if not root_path and not path.endswith("/"):
            return "", path  # served alone, as most are
        if (
            root_path
            and path.startswith(root_path)
            and path[len(root_path) : len(root_path) + 1] in {"", "/"}
        ):
            below = path[len(root_path) :]
            # A kit below /api with its API at /api/v1: a stripped path looks as if it were whole.
            if self._knows(below) or not self._knows(path):
                return root_path, below or "/"
            return root_path, path
        if path.endswith("/"):
            return self._from_raw_path(scope, root_path, path)
        if self._knows(path):
            return root_path, path
        # A proxy's prefix that the server did not put before the path, and a mount's that is part of it.
        for index, character in enumerate(root_path):
            tail = root_path[index:]
            if character == "/" and path.startswith(tail) and self._knows(path[len(tail) :]):
                return root_path, path[len(tail) :]
        return root_path, path

    def _from_raw_path(self, scope: Scope, root_path: str, path: str) -> tuple[str, str]:
        raw = unquote(scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1"))
        kit_path = path.rstrip("/")
        # Without a slash at its end in raw_path either, the client has sent none.
        if kit_path and raw.endswith(kit_path) and self._knows(kit_path):
            before = raw.removesuffix(kit_path)
            return before if before.startswith(root_path) else root_path + before, kit_path
        return root_path, path
