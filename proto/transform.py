"""typing.dataclass_transform for modules that do not import typing at run time, where it does nothing anyway."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import dataclass_transform as dataclass_transform
else:

    def dataclass_transform(**_: object):
        return lambda decorated: decorated
