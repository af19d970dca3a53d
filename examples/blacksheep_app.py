"""projkit in BlackSheep: ``uvicorn blacksheep_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from blacksheep import Application, get

from projkit import ProjKit

kit = ProjKit()  # reads PROJKIT_* variables; opens nothing
app = Application()


@get("/")
async def home() -> dict[str, str]:
    """Serve a page of the host."""
    return {"page": "the host's own"}


@app.on_start
async def start(application: Application) -> None:
    """Start the kit: BlackSheep does not run the lifespan of mounted applications."""
    await kit.startup()


@app.on_stop
async def stop(application: Application) -> None:
    """Stop the kit."""
    await kit.shutdown()


app.mount("/kit", kit)
