"""Which embedder serves a tenant in this process? While a tenant moves to another model, its old one still does."""

from collections.abc import Mapping

from memory.domain.errors import EmbedderUnavailable, SpaceChanged
from memory.ports.models import Embedder, Models
from memory.ports.storage import Storage, UnitOfWork


class TenantSpaces:
    """`current`: what is configured. `former`: by space, those that some tenants are still served by."""

    def __init__(self, current: Models, former: Mapping[str, Models] | None = None) -> None:
        self.current = current
        self.former = dict(former or {})
        self._loaded = {**self.former, current.embedder.space: current}
        self._served: dict[str, str] = {}
        self._words: dict[str, str] = {}

    def of(self, tenant_id: str) -> Embedder:
        return self.models(tenant_id).embedder

    def models(self, tenant_id: str) -> Models:
        return self._loaded[self._served.get(tenant_id, self.current.embedder.space)]

    def loaded(self, space: str) -> Models | None:
        return self._loaded.get(space)

    def embedder(self, space: str) -> Embedder | None:
        models = self._loaded.get(space)
        return None if models is None else models.embedder

    def serve(self, tenant_id: str, space: str) -> None:
        assert space in self._loaded
        self._served[tenant_id] = space
        self._words.pop(tenant_id, None)

    def leave_to_words(self, tenant_id: str, reason: str) -> None:
        self._words[tenant_id] = reason

    def left_to_words(self, tenant_id: str) -> str | None:
        return self._words.get(tenant_id)

    @property
    def words_only(self) -> int:
        """Tenants of which something is found by its words only."""
        return len(self._words)

    async def refresh(self, storage: Storage, tenant_id: str) -> Models:
        """Those of the space that all processes agree on; the first who embeds for a tenant decides which that is.

        Raises EmbedderUnavailable where its model is not loaded here.
        """
        async with storage.read() as tx:
            space = await tx.spaces.of(tenant_id)
        if space is None:
            async with storage.write() as tx:
                await tx.spaces.begin(tenant_id, self.current.embedder.space)
                space = await tx.spaces.of(tenant_id) or self.current.embedder.space
        if space not in self._loaded:
            raise EmbedderUnavailable(
                f"the tenant is served in the space {space}, whose model is not loaded here:"
                " start this process with the same STRATAMEM_EMBEDDER as the others",
                space=space,
            )
        self.serve(tenant_id, space)
        return self._loaded[space]

    async def hold(self, tx: UnitOfWork, tenant_id: str, space: str) -> None:
        """The tenant stays in this space until the unit of work ends. Raises SpaceChanged when it has left it."""
        if await tx.spaces.of(tenant_id, held=True) != space:
            raise SpaceChanged(f"the tenant has left the space {space}", space=space)
