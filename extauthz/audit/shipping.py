"""Where records are shipped to: the names of the service, known to both sides."""

RECORD_SERVICE = "legation.v1.RecordService"
SHIP_METHOD = f"/{RECORD_SERVICE}/Ship"
