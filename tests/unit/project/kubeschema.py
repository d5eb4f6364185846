"""Checks Kubernetes objects against the API's own models, as an API server with strict field validation would.

The models are those of the official Python client, which are generated from the API's OpenAPI description: each knows
its fields' names and types and which of them must be there, and forbids others.  What is not in that description (that
a name is a DNS name, say) is not checked.
"""

from __future__ import annotations

from typing import Any

from kubernetes.client import models

MODELS = {
    ("v1", "Namespace"): models.V1Namespace,
    ("v1", "Pod"): models.V1Pod,
    ("apps/v1", "DaemonSet"): models.V1DaemonSet,
    ("node.k8s.io/v1", "RuntimeClass"): models.V1RuntimeClass,
}


def check(manifest: Any) -> None:
    """Raises ValueError, which says where, for what an API server would not take."""
    model = MODELS.get((manifest.get("apiVersion"), manifest.get("kind")))
    if model is None:
        raise ValueError(f"unknown kind {manifest.get('apiVersion')} {manifest.get('kind')}")
    _check_names(manifest, manifest["kind"])
    model.model_validate(manifest)


def _check_names(value: Any, where: str) -> None:
    """The models also take Python's names for fields, which no API server does; the API's have no underscores."""
    if isinstance(value, dict):
        for key, item in value.items():
            if "_" in key:
                raise ValueError(f"{where}.{key}: there is no such field")
            _check_names(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check_names(item, where)
