"""Where the figures of a bench or a profile come from: command, hardware, versions, and what was really served."""

from collections.abc import Sequence

from qtrap_agents.bench_store import BenchDirectory
from qtrap_agents.report.served import marked
from qtrap_agents.types import ArmIdentity, Record


class Provenance(Record):
    """What made the figures. `identities` has the arms that became ready, `versions` the packages that matter."""

    path: str
    shape: str | None
    command: str
    hardware: str
    started_utc: str
    versions: dict[str, str]
    identities: dict[str, ArmIdentity]

    def marked(self, arm: str) -> str:
        """What tables call the arm."""
        return marked(arm, self.identities.get(arm))

    @property
    def doubts(self) -> tuple[str, ...]:
        """Arms that are not known to hold what they claim."""
        known = ((arm, identity.verification) for arm, identity in self.identities.items())
        return tuple(f"{arm}: {found.status}: {found.reason}" for arm, found in known if found and found.status != "verified")


def provenance(directory: BenchDirectory) -> Provenance:
    """What was recorded beside the measurements. Raises StoreError where a file is damaged."""
    environment = directory.environment()
    named = {arm.name: directory.identity(arm.name) for arm in directory.config.arms}
    packages = environment.get("packages")
    return Provenance(
        path=str(directory.path),
        shape=directory.config.shape,
        command=str(environment.get("command", "")),
        hardware=hardware(environment),
        started_utc=str(environment.get("started_utc", "")),
        versions={str(name): str(version) for name, version in packages.items()} if isinstance(packages, dict) else {},
        identities={arm: identity for arm, identity in named.items() if identity is not None},
    )


def hardware(environment: dict[str, object]) -> str:
    """GPUs, or the CPU and its cores."""
    gpus = environment.get("gpus")
    if isinstance(gpus, Sequence) and gpus:
        return ", ".join(map(str, gpus))
    return f"{environment.get('cpu', 'unknown CPU')}, {environment.get('cores', '?')} cores"
