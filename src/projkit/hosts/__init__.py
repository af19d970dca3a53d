"""Guards in the style of FastAPI, Starlette, Litestar and Django; each module requires its framework."""
