"""The values of `model`: the checkpoint, its styles, and names that stand for them (`model_aliases`)."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from gateway.aliases import FOREIGN_MODELS, Aliases
from gateway.api.common.errors import OPENAI_ERRORS
from gateway.downstream import list_styles
from gateway.session.context import GatewayContext
from services.common.errors import NotFound, quoted


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int = Field(default=0, description="Always 0: checkpoints have no date.")
    owned_by: str = "light-tts"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
    models: list[Model] = Field(description="The same list, under the name that some clients read.")


class Models:
    """The model names that a request may have."""

    def __init__(self, context: GatewayContext) -> None:
        self._context = context
        self._aliases = Aliases(context.settings.model_aliases, FOREIGN_MODELS)

    async def names(self) -> tuple[str, ...]:
        """Return the checkpoint's name, its further styles, and the aliases that are no patterns."""
        return tuple(dict.fromkeys((*await self._own(), *self._aliases.names)))

    async def style(self, name: str) -> str:
        """Return the style that a model's name selects; empty for the default. Raises NotFound."""
        if not name or name == self._context.voices.model.name:
            return ""
        if name in await self._own():
            return name
        target = self._aliases.resolve(name)
        if target is None:
            raise NotFound(f"there is no model {quoted(name)}; GET /v1/models lists the models", field="model")
        if target in ("", self._context.voices.model.name):
            return ""
        if target not in await self._own():
            message = f"there is no model {quoted(target)}, which {quoted(name)} means here; see model_aliases"
            raise NotFound(message, field="model")
        return target

    async def _own(self) -> tuple[str, ...]:
        return (self._context.voices.model.name, *(await list_styles(self._context.llm))[1:])


def router(models: Models) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], responses=OPENAI_ERRORS)

    @routes.get("/models")
    @routes.get("/audio/models")
    async def list_models() -> ModelList:
        """List the values of `model`: the checkpoint, which is the default, its further styles, and aliases."""
        listed = [Model(id=name) for name in await models.names()]
        return ModelList(data=listed, models=listed)

    @routes.get("/models/{model}")
    async def one_model(model: str) -> Model:
        """Return one model, by any name that a request may have."""
        await models.style(model)
        return Model(id=model)

    return routes
