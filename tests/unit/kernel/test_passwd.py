"""HOME out of /etc/passwd."""

from __future__ import annotations

import pytest

from sentry.kernel.passwd import home_of

PASSWD = b"""root:x:0:0:root:/root:/bin/sh
short:x:7:7
# 9
web:x:33:33::/var/www:/bin/false
again:x:33:33::/elsewhere:
none:x:34:34:::/bin/sh
latin:x:35:35:J\xf6rg:/home/j\xf6rg:/bin/sh
"""


@pytest.mark.parametrize(
    ("uid", "home"),
    [(0, "/root"), (33, "/var/www"), (34, "/"), (35, "/home/j\udcf6rg"), (7, "/"), (9, "/"), (1000, "/")],
)
def test_home_is_the_sixth_field_of_the_first_line_of_the_user(uid: int, home: str) -> None:
    assert home_of(PASSWD, uid) == home


def test_without_the_file_it_is_the_root() -> None:
    assert home_of(b"", 0) == "/"
