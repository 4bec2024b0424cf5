"""PostgreSQL: database, connection pool, read replica, migrations, partitions."""
