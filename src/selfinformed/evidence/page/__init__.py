"""Pages from templates, with the styles and at most one script of their own."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any

_SAFE = ("data", "figure")  # made by us, markup and all


def rendered(template: str, script: str, **content: Any) -> str:
    """A page of this folder; `script` names its script, if it has one, and no other may run."""
    import jinja2
    from markupsafe import Markup

    folder = resources.files(__name__)

    def read(name: str) -> str:
        return folder.joinpath(name).read_text("utf-8") if name else ""

    code = read(script)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = jinja2.FunctionLoader(read)
    safe: dict[str, Any] = {name: Markup(value) for name, value in content.items() if name in _SAFE}  # noqa: S704
    if "figures" in content:
        safe["figures"] = {name: Markup(svg) for name, svg in content["figures"].items()}  # noqa: S704
    hashed = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{hashed}'; " if code else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {allowed}base-uri 'none'; form-action 'none'"
    return environment.get_template(template).render(**content | safe, css=Markup(read("page.css")), script=Markup(code), policy=policy)  # noqa: S704
