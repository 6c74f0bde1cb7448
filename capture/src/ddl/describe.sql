BEGIN
  RETURN CASE kind
    WHEN 'table' THEN irongate.ddl_table(object) WHEN 'view' THEN irongate.ddl_view(object)
    WHEN 'sequence' THEN irongate.ddl_sequence(object) WHEN 'type' THEN irongate.ddl_type(object)
    WHEN 'function' THEN irongate.ddl_function(object) WHEN 'schema' THEN irongate.ddl_schema(object)
    WHEN 'extension' THEN irongate.ddl_extension(object) END;
END
