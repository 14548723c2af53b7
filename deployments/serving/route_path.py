"""A request's path as the application knows it."""

from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """Return the path without the part that a proxy in front has taken off."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path
