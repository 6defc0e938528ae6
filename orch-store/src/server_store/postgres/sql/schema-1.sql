-- What lies under each key. Keys are compared byte by byte, whatever the database's language.
CREATE TABLE records (
    key     text COLLATE "C" NOT NULL PRIMARY KEY,
    value   bytea NOT NULL,
    version bigint NOT NULL
);
COMMENT ON COLUMN records.version IS 'the revision that wrote it';

CREATE TABLE log (
    revision bigint NOT NULL,
    key      text COLLATE "C" NOT NULL,
    value    bytea,
    PRIMARY KEY (revision, key)
);
COMMENT ON TABLE log IS 'what each of the newest revisions changed, for watches; no value is a deletion';

-- Whoever commits holds its row, so that revisions are committed in their order.
CREATE TABLE meta (
    only_row boolean NOT NULL DEFAULT true PRIMARY KEY CHECK (only_row),
    format   integer NOT NULL,
    revision bigint NOT NULL,
    oldest   bigint NOT NULL
) WITH (fillfactor = 10);
COMMENT ON COLUMN meta.revision IS 'the newest revision';
COMMENT ON COLUMN meta.oldest IS 'the earliest revision that a watch may start from';
INSERT INTO meta (format, revision, oldest) VALUES (1, 0, 0);

-- For people: values as text where they are text.
CREATE FUNCTION as_text(value bytea) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT AS $$
BEGIN
    RETURN convert_from(value, 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    RETURN encode(value, 'escape');
END $$;
CREATE VIEW readable AS SELECT key, as_text(value) AS value, version FROM records;
