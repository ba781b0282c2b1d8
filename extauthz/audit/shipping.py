"""Where records are shipped to: the names of the service, known to both sides."""

RECORD_SERVICE = "legation.v1.RecordService"
SHIP_METHOD = f"/{RECORD_SERVICE}/Ship"
RESULTS = "results-"
"""How the names of aggregators' writers begin: under any other name nothing is taken from an aggregator."""
