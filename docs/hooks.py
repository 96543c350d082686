"""Hooks of mkdocs: files outside of docs/ that are pages, too, and links between files of the repository.

Links are written as GitHub reads them, relative to the file that they stand in. On the site a link to a file that is no
page is its text alone.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
OUTSIDE = {
    ROOT / "README.md": "overview.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "launch" / "cluster" / "README.md": "guides/clusters.md",
}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]\n]*)\]\((?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files, config):
    for path, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    source = Path(page.file.abs_src_path)

    def on_site(link: re.Match) -> str:
        target = (source.parent / link["path"]).resolve()
        if target.is_dir() and (target / "README.md").exists():
            target /= "README.md"
        if not target.is_relative_to(ROOT) or not target.exists():
            return link[0]  # which mkdocs tells of
        if target not in OUTSIDE and not target.is_relative_to(DOCS):
            return link["text"]
        uri = OUTSIDE.get(target) or target.relative_to(DOCS).as_posix()
        there = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link['image']}[{link['text']}]({there}{link['anchor'] or ''})"

    return LINK.sub(on_site, markdown)
