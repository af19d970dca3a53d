"""projkit in BlackSheep: ``uvicorn blacksheep_app:app``, then http://127.0.0.1:8000/kit/api/v1/docs."""

from blacksheep import Application, get

from projkit import ProjKit

kit = ProjKit()  # settings from PROJKIT_* variables; opens nothing yet
app = Application()


@get("/")
async def home() -> dict[str, str]:
    """A page of the app's own."""
    return {"page": "the host's own"}


@app.on_start
async def start(application: Application) -> None:
    """BlackSheep does not run the lifespan of what is mounted in it."""
    await kit.startup()


@app.on_stop
async def stop(application: Application) -> None:
    """Closes what the kit has opened."""
    await kit.shutdown()


app.mount("/kit", kit)
