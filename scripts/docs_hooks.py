"""What the documentation site needs beyond its pages.

Files of the repository that pages point to outside `docs/` are put into the site, so that one link serves both. A page that would ask another host
for anything stops the build.
"""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
SHARED = {"benchmarks/results": "*.png", "examples": "*.py"}
OUTSIDE = re.compile(r"""<(?:script|link|img|iframe|source|video|audio)\b[^>]*\b(?:src|href|srcset)=["']?(?:https?:)?//[^>]*>""")


def on_files(files, config):
    for folder, pattern in SHARED.items():
        for path in sorted((ROOT / folder).glob(pattern)):
            files.append(File.generated(config, f"{folder}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    for folder in SHARED:
        markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    return markdown


def on_post_page(output, page, config):
    if found := OUTSIDE.search(output):
        raise PluginError(f"{page.file.src_uri} asks another host: {found.group()}")
    return output
