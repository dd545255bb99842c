"""Look and feel shared by both consoles: tokens, macros, the field viewer, the cell gallery, the words.

Nothing is built and nothing comes from the internet: style sheets and ES modules are served as they lie here.
"""

from fleet.webkit.assets import Assets
from fleet.webkit.events import EventStream, Feed, FeedFull
from fleet.webkit.pages import SECURITY_HEADERS, PageKit

__all__ = ["SECURITY_HEADERS", "Assets", "EventStream", "Feed", "FeedFull", "PageKit"]
