"""Which URLs a body may carry: `data:` always, `https:` and `http:` from listed hosts, nothing else.

vLLM fetches what a message's image, audio or video part names, from inside the operator's network.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from inferbus.errors import InvalidRequest

_PLACES = ("messages", "input", "system", "prompt", "query", "queries", "documents", "items", "text_1", "text_2")
_MEDIA_KEYS = frozenset({"image_url", "audio_url", "video_url", "file_url"})
_MAX_DEPTH = 32


def check_media_urls(body: dict[str, Any], hosts: frozenset[str]) -> None:
    """Walk the parts of `body` that carry content and check every media URL.

    Raises:
        InvalidRequest: a URL is not allowed, or the content is nested too deeply to tell.
    """
    for place in _PLACES:
        content = body.get(place)
        if isinstance(content, list | dict):
            _walk(content, place, hosts, _MAX_DEPTH)


def _walk(node: Any, where: str, hosts: frozenset[str], depth: int) -> None:
    if depth == 0:
        raise InvalidRequest(f"{where} is nested too deeply", param=where)
    if isinstance(node, list):
        for index, item in enumerate(node):
            if isinstance(item, list | dict):
                _walk(item, f"{where}[{index}]", hosts, depth - 1)
        return
    for key, value in node.items():
        inner = f"{where}.{key}"
        url = _url_of(key, value)
        if url is not None and not _allowed(url, hosts):
            raise InvalidRequest(
                f"{inner}: only data: URLs and the hosts the operator listed are allowed here", param=inner
            )
        if isinstance(value, list | dict) and not _is_tool_arguments(node, key):
            _walk(value, inner, hosts, depth - 1)


def _url_of(key: str, value: Any) -> str | None:
    """Give the URL a media field names; `source` is the Anthropic way and always an object."""
    if key in _MEDIA_KEYS:
        found = value.get("url") if isinstance(value, dict) else value
    elif key == "source" and isinstance(value, dict):
        found = value.get("url")
    else:
        return None
    return found if isinstance(found, str) else None


def _is_tool_arguments(node: dict[str, Any], key: str) -> bool:
    """Arguments of a tool call are the model's words about anything, URLs included; nothing fetches them."""
    return key == "input" and node.get("type") in {"tool_use", "server_tool_use"}


def _allowed(url: str, hosts: frozenset[str]) -> bool:
    if url[:5].lower() == "data:":
        return True
    # Two parsers that disagree about a URL are how allow-lists are passed: take only what leaves no doubt.
    if any(c in url for c in "\\@") or any(ord(c) <= 0x20 or ord(c) == 0x7F for c in url):
        return False
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and host is not None and host.lower() in hosts
