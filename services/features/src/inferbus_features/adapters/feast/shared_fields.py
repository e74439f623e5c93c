"""Feast's services read from a registry, with fields that are alike made once.

A service repeats every field of its views, and Feast makes an object of each, with a check of every argument's type: 100
services of 900 features took 9 s of CPU and most of a process's memory. What makes the objects is Feast's own code.
"""

from __future__ import annotations

from feast import FeatureService
from feast.data_source import DataSource
from feast.feature_view_projection import FeatureViewProjection
from feast.field import Field
from feast.infra.registry.base_registry import BaseRegistry
from feast.protos.feast.core.FeatureService_pb2 import FeatureService as ServiceProto
from feast.protos.feast.core.FeatureViewProjection_pb2 import FeatureViewProjection as ProjectionProto


class SharedFields:
    """For one registry. Whoever gets these objects must not change them."""

    def __init__(self) -> None:
        self._fields: dict[bytes, Field] = {}
        self._sources: dict[bytes, DataSource] = {}

    def services(self, registry: BaseRegistry, project: str) -> list[FeatureService]:
        """Read a project's services."""
        return [self._service(one) for one in registry.proto().feature_services if one.spec.project == project]

    def _service(self, proto: ServiceProto) -> FeatureService:
        bare = ServiceProto()
        bare.CopyFrom(proto)
        bare.spec.ClearField("features")
        service = FeatureService.from_proto(bare)
        service.feature_view_projections.extend(self._projection(one) for one in proto.spec.features)
        return service

    def _projection(self, proto: ProjectionProto) -> FeatureViewProjection:
        bare = ProjectionProto()
        bare.CopyFrom(proto)
        bare.ClearField("feature_columns")
        bare.ClearField("batch_source")
        projection = FeatureViewProjection.from_proto(bare)
        for column in proto.feature_columns:
            projection.features.append(self._field(column.SerializeToString(deterministic=True), column))
        if proto.HasField("batch_source"):
            projection.batch_source = self._source(proto)
        return projection

    def _field(self, key: bytes, proto: object) -> Field:
        found = self._fields.get(key)
        if found is None:
            found = self._fields[key] = Field.from_proto(proto)
        return found

    def _source(self, proto: ProjectionProto) -> DataSource:
        key = proto.batch_source.SerializeToString(deterministic=True)
        found = self._sources.get(key)
        if found is None:
            found = self._sources[key] = DataSource.from_proto(proto.batch_source)
        return found
