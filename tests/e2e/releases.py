"""Helm releases, as a user installs, tests, upgrades and removes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness import ROOT, Kube, run

PATIENCE = 600.0


@dataclass(frozen=True)
class Release:
    """One release of a chart of helm/ in a namespace."""

    kube: Kube
    name: str
    chart: str

    def install(self, settings: dict[str, str], *values: Path) -> str:
        """Install and wait until it is ready; what the notes say."""
        return self._put("install", settings, *values)

    def upgrade(self, settings: dict[str, str]) -> str:
        """Change some values, keep the others, and wait until it is ready."""
        return self._put("upgrade", settings, "--reuse-values")

    def _put(self, verb: str, settings: dict[str, str], *more: Path | str) -> str:
        options = [str(o) for m in more for o in (["--values", m] if isinstance(m, Path) else [m])]
        options += [o for name, value in settings.items() for o in ("--set", f"{name}={value}")]
        folder = ROOT / "helm" / self.chart
        wait = ["--wait", "--timeout", f"{PATIENCE:.0f}s"]
        return self._helm(verb, self.name, str(folder), *options, *wait)

    def test(self) -> str:
        """`helm test`, which must succeed; what helm said. The pod goes, with its log."""
        return self._helm("test", self.name, "--timeout", "120s")

    def uninstall(self) -> None:
        self._helm("uninstall", self.name, "--wait", "--timeout", "120s")

    def revisions(self) -> list[str]:
        """Helm's own records of it."""
        selector = f"owner=helm,name={self.name}"
        return self.kube.kubectl("get", "secret", "-l", selector, "-o", "name").split()

    def objects(self) -> list[str]:
        """Everything in the namespace that carries its label, of every kind that there is."""
        kinds = run("kubectl", "api-resources", "--namespaced", "--verbs=list", "-o", "name")
        wanted = ",".join(kind for kind in kinds.split() if not kind.startswith("events"))
        selector = f"app.kubernetes.io/instance={self.name}"
        found = self.kube.kubectl("get", wanted, "-l", selector, "-o", "name", "--ignore-not-found")
        return found.split()

    def _helm(self, *arguments: str) -> str:
        return run("helm", "-n", self.kube.namespace, *arguments, timeout=PATIENCE + 60)
