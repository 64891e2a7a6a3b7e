"""Reads run events, a line of JSON each on standard input, as OpenLineage's own client does: its classes are generated from the
published schemas and check what they are given. Prints the events' types."""

import json
import sys

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet
from openlineage.client.generated.error_message_run import ErrorMessageRunFacet
from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet
from openlineage.client.generated.schema_dataset import SchemaDatasetFacet, SchemaDatasetFacetFields
from openlineage.client.generated.tags_dataset import TagsDatasetFacet, TagsDatasetFacetFields

FACETS = {
    "errorMessage": lambda f: ErrorMessageRunFacet(**f),
    "version": lambda f: DatasetVersionDatasetFacet(**f),
    "outputStatistics": lambda f: OutputStatisticsOutputDatasetFacet(**f),
    "schema": lambda f: SchemaDatasetFacet(fields=[SchemaDatasetFacetFields(**x) for x in f.pop("fields")], **f),
    "tags": lambda f: TagsDatasetFacet(tags=[TagsDatasetFacetFields(**x) for x in f.pop("tags")], **f),
}


def facets(all_):
    made = {}
    for name, facet in all_.items():
        schema = facet.pop("_schemaURL")
        producer = facet.pop("_producer")
        made[name] = FACETS[name](facet)
        assert producer.startswith("https://"), producer
        # The class's own definition, at the version that this client knows or before it.
        assert made[name]._get_schema().rsplit("/", 1)[1] == schema.rsplit("/", 1)[1], (made[name]._get_schema(), schema)
    return made


def dataset(kind, d):
    more = {}
    if "outputFacets" in d:
        more["outputFacets"] = facets(d.pop("outputFacets"))
    return kind(facets=facets(d.pop("facets", {})), **more, **d)


types = []
for line in sys.stdin:
    event = json.loads(line)
    assert event.pop("schemaURL") == "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
    made = RunEvent(
        eventType=RunState[event.pop("eventType")],
        run=Run(runId=event["run"]["runId"], facets=facets(event.pop("run")["facets"])),
        job=Job(**event.pop("job")),
        inputs=[dataset(InputDataset, d) for d in event.pop("inputs")],
        outputs=[dataset(OutputDataset, d) for d in event.pop("outputs")],
        **event,
    )
    types.append(made.eventType.name)
print(" ".join(types))
