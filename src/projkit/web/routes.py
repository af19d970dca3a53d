"""The endpoint of the OpenAPI document."""

from collections.abc import Sequence
from functools import lru_cache

import orjson

from projkit.http.openapi import document
from projkit.http.request import Request
from projkit.http.response import JSON_TYPE, Response
from projkit.http.routing import Endpoint, ResponseSpec
from projkit.http.url_paths import encode_path


def endpoints(prefix: str, api: Sequence[Endpoint], version: str, cookie: str) -> list[Endpoint]:
    """Return the endpoint ``/openapi.json``, which describes ``api``."""

    @lru_cache(maxsize=16)
    def encoded(server: str) -> bytes:
        return orjson.dumps(document(api, version=version, cookie=cookie, server=server))

    async def openapi(request: Request) -> Response:
        return Response(
            200, encoded(encode_path(request.root_path)), (JSON_TYPE, (b"cache-control", b"no-cache"))
        )

    return [
        Endpoint(
            method="GET",
            path=f"{prefix}/openapi.json",
            handler=openapi,
            operation_id="getOpenapi",
            summary="Get the OpenAPI document",
            tag="health",
            responses={200: ResponseSpec("The OpenAPI document.", {"type": "object"})},
            public=True,
            standalone=True,
            documented=False,
        )
    ]
