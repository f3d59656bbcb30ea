"""Gives the documentation site those files of the repository that pages point to outside `docs/`, so that one link serves both."""

from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent
_SHARED = {"benchmarks/results": "*.png", "examples": "*.py"}


def on_files(files, config):
    for folder, pattern in _SHARED.items():
        for path in sorted((ROOT / folder).glob(pattern)):
            files.append(File.generated(config, f"{folder}/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    for folder in _SHARED:
        markdown = markdown.replace(f"](../{folder}/", f"]({folder}/")
    return markdown
