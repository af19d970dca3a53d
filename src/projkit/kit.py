"""The kit: the one place where everything is put together."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.routing import Route

from projkit import health, web
from projkit.auth.bearer import BearerAuthenticator, GetPrincipal, HostAuthenticator
from projkit.auth.keys import load_keys
from projkit.auth.tokens import TokenIssuer, TokenVerifier
from projkit.clock import Clock, utc_now
from projkit.db.tables import build_tables
from projkit.http.application import Application
from projkit.http.cursor import CursorCodec
from projkit.http.entry import EntryShim
from projkit.http.openapi import document
from projkit.http.request import ASGIApp, Receive, Scope, Send
from projkit.http.timing import TimingMiddleware
from projkit.lifecycle import Running, start
from projkit.projects.facade import Projects
from projkit.projects.routes import ProjectRoutes, Services
from projkit.settings import Settings
from projkit.wrapping import LifespanHandler, WrappedApp
