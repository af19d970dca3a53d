"""The entry of a request: normalization of the path that the host's mount left in the scope.

Hosts differ in what a mount does to the scope:

- Starlette, FastAPI, BlackSheep and uvicorn's ``--root-path``: ``path`` is complete and begins with ``root_path``;
- hypercorn's dispatcher, and hosts that follow WSGI: ``path`` is stripped, and ``root_path`` holds the stripped part;
- Litestar: ``path`` is stripped and ends in ``/``; only ``raw_path`` contains the mount, ``root_path`` does not.

A proxy in front of the server may add a prefix that no mount knows, and strip it or keep it. The settings then name the
whole prefix that browsers see, which URLs in responses and the paths of cookies begin with. It applies if it ends in
the mount's own prefix; otherwise the settings are wrong, and the mount is right.
"""

import logging
from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from projkit.http import scope_keys

logger: Final = logging.getLogger("projkit")


class EntryShim:
    """Middleware that passes on a copy of the scope with ``projkit.path`` and the correct ``root_path``.

    The host's scope stays as it is, except that the matched route is copied back for the host's instrumentation.

    Args:
        owns: returns whether the kit serves a path; decides between two readings of an ambiguous scope.
        public_path: the path below which browsers find the kit, such as ``/kit``; None if the settings do not say.
    """

    def __init__(self, app: ASGIApp, owns: Callable[[str], bool], public_path: str | None = None) -> None:
        self._app = app
        self._owns = owns
        self._public_path = public_path
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        inner = dict(scope)
        root_path, path = self._locate(scope)
        if self._public_path is not None:
            root_path, path = self._locate_publicly(self._public_path, root_path, path)
        if root_path.startswith("//"):  # of a request to //evil.example/kit; URLs would name another host
            root_path = f"/{root_path.lstrip('/')}"
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
            return "", path  # not mounted: the common case
        if (
            root_path
            and path.startswith(root_path)
            and path[len(root_path) : len(root_path) + 1] in {"", "/"}
        ):
            kit_path = path[len(root_path) :]
            # If the kit is mounted at /api and serves /api/v1, a stripped path looks like a complete one.
            if self._owns(kit_path) or not self._owns(path):
                return root_path, kit_path or "/"
            return root_path, path
        if path.endswith("/"):
            return self._from_raw_path(scope, root_path, path)
        if self._owns(path):
            return root_path, path
        # root_path holds a proxy's prefix, which is not part of path, followed by the mount's prefix, which is.
        for index, character in enumerate(root_path):
            tail = root_path[index:]
            if character == "/" and path.startswith(tail) and self._owns(path[len(tail) :]):
                return root_path, path[len(tail) :]
        return root_path, path

    def _locate_publicly(self, public_path: str, root_path: str, path: str) -> tuple[str, str]:
        if public_path and not root_path and path.startswith(public_path + "/") and not self._owns(path):
            path = path[len(public_path) :]  # the proxy has kept the prefix
        if public_path.endswith(root_path):
            return public_path, path
        if not self._warned:
            self._warned = True
            logger.warning(
                "the kit is mounted at %r, but PROJKIT_PUBLIC_URL (or PROJKIT_ROOT_PATH) has the path %r, which is "
                "ignored; set PROJKIT_PUBLIC_URL to the kit's URL in browsers, including the mount path",
                root_path,
                public_path,
            )
        return root_path, path

    def _from_raw_path(self, scope: Scope, root_path: str, path: str) -> tuple[str, str]:
        raw = unquote(scope.get("raw_path", b"").partition(b"?")[0].decode("latin-1"))
        kit_path = path.rstrip("/")
        # If raw_path has no trailing slash, the host added the one in path.
        if kit_path and raw.endswith(kit_path) and self._owns(kit_path):
            before = raw.removesuffix(kit_path)
            return before if before.startswith(root_path) else root_path + before, kit_path
        return root_path, path
