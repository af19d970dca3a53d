"""Guards that feel native in FastAPI, Starlette, Litestar and Django; each module needs its framework, projkit none."""
