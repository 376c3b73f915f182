"""Choose clients by a query, a subset of SQL's WHERE: read it (`parser`) and turn it into SQL (`conditions`)."""
