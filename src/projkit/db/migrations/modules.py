"""The modules of the revisions, each with what leads to it from the one before."""

from importlib import import_module
from importlib.resources import files
from types import ModuleType

from projkit.db import revisions
from projkit.db.migrations.steps import Step, Transaction


def steps_of(revision: str, prefix: str) -> list[Step]:
    """Return the steps that lead to a revision from the one before it."""
    module = module_of(revision)
    if hasattr(module, "steps"):
        steps: list[Step] = module.steps(prefix)
        return steps
    return [Transaction(str(module.__doc__).rstrip("."), module.upgrade)]


def required_by(revision: str) -> str:
    """Return the revision that a version of projkit has to know to use the schema of ``revision``.

    A revision that older versions can use names the oldest of them in ``compatible_from``.
    """
    applied = [each for each in revisions.known() if each <= revision]
    return max(getattr(module_of(each), "compatible_from", each) for each in applied)


def module_of(revision: str) -> ModuleType:
    """Return the module of a revision."""
    (name,) = [
        each.name.removesuffix(".py")
        for each in files(revisions.MIGRATIONS).iterdir()
        if each.name.startswith(f"{revision}_")
    ]
    return import_module(f"{revisions.MIGRATIONS}.{name}")
