"""Errors of the catalogue."""

from __future__ import annotations

from spotplane_server.kernel.errors import AlreadyExists, NotFound, Precondition


class RegionNotFound(NotFound):
    """There is no such region."""

    reason = "REGION_NOT_FOUND"


class RegionCodeTaken(AlreadyExists):
    """Another region that is not deleted has the code."""

    reason = "REGION_CODE_TAKEN"


class RegionInUse(Precondition):
    """Live instances run in the region."""

    reason = "REGION_IN_USE"


class InstanceTypeNotFound(NotFound):
    """There is no such instance type."""

    reason = "INSTANCE_TYPE_NOT_FOUND"


class InstanceTypeExists(AlreadyExists):
    """The provider has an instance type of that name."""

    reason = "INSTANCE_TYPE_EXISTS"


class InstanceTypeInUse(Precondition):
    """Live instances use the type."""

    reason = "INSTANCE_TYPE_IN_USE"


class ModelNotFound(NotFound):
    """There is no such model."""

    reason = "MODEL_NOT_FOUND"


class ModelNameTaken(AlreadyExists):
    """Another model has the name."""

    reason = "MODEL_NAME_TAKEN"


class ModelInUse(Precondition):
    """Live nodes serve the model."""

    reason = "MODEL_IN_USE"
