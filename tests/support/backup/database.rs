//! A dump of GitLab's database in the plain format of `pg_dump --clean --if-exists`, with the tables that
//! tell which project is where, and one that is encrypted.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{hashed, sha256};

/// A table: name, columns with their types, rows of values.
struct Table {
    name: &'static str,
    columns: Columns,
    rows: Vec<Vec<Value>>,
}

/// A value of a row: absent, or a text that has yet to be escaped.
type Value = Option<String>;

/// The dump of a GitLab with these projects, encrypted with these secrets.
pub fn dump(version: &str, projects: &BTreeMap<u64, String>, secrets: &str) -> String {
    let (postgres, restrict) = if number(version) >= 1803 {
        ("16.10", true)
    } else {
        ("14.15", false)
    };
    let mut text = "--\n-- PostgreSQL database dump\n--\n\n".to_owned();
    let key = &sha256(secrets.as_bytes())[..63];
    if restrict {
        let _ = write!(text, "\\restrict {key}\n\n");
    }
    let _ = write!(
        text,
        "-- Dumped from database version {postgres}\n-- Dumped by pg_dump version {postgres}\n\n{SETTINGS}"
    );
    let tables = tables(projects, secrets);
    for Table { name, .. } in tables.iter().rev() {
        let _ = write!(
            text,
            "ALTER TABLE IF EXISTS ONLY public.{name} DROP CONSTRAINT IF EXISTS {name}_pkey;\n\
             ALTER TABLE IF EXISTS public.{name} ALTER COLUMN id DROP DEFAULT;\n"
        );
    }
    for Table { name, .. } in tables.iter().rev() {
        let _ = write!(
            text,
            "DROP SEQUENCE IF EXISTS public.{name}_id_seq;\nDROP TABLE IF EXISTS public.{name};\n"
        );
    }
    text += EXTENSIONS;
    for Table { name, columns, .. } in &tables {
        let columns: Vec<_> = columns
            .iter()
            .map(|(column, kind)| format!("    {column} {kind}"))
            .collect();
        head(&mut text, name, "TABLE", "gitlab");
        let _ = write!(
            text,
            "CREATE TABLE public.{name} (\n{}\n);\n\n\n",
            columns.join(",\n")
        );
        head(&mut text, &format!("{name}_id_seq"), "SEQUENCE", "gitlab");
        let _ = write!(
            text,
            "CREATE SEQUENCE public.{name}_id_seq\n    START WITH 1\n    INCREMENT BY 1\n    NO MINVALUE\n    \
             NO MAXVALUE\n    CACHE 1;\n\n\n"
        );
        head(
            &mut text,
            &format!("{name}_id_seq"),
            "SEQUENCE OWNED BY",
            "gitlab",
        );
        let _ = write!(
            text,
            "ALTER SEQUENCE public.{name}_id_seq OWNED BY public.{name}.id;\n\n\n"
        );
    }
    for table in &tables {
        table.copy(&mut text);
    }
    for Table { name, rows, .. } in &tables {
        head(
            &mut text,
            &format!("{name}_id_seq"),
            "SEQUENCE SET",
            "gitlab",
        );
        let last = rows.len().max(1);
        let _ = write!(
            text,
            "SELECT pg_catalog.setval('public.{name}_id_seq', {last}, true);\n\n\n"
        );
    }
    for Table { name, .. } in &tables {
        head(
            &mut text,
            &format!("{name} {name}_pkey"),
            "CONSTRAINT",
            "gitlab",
        );
        let _ = write!(
            text,
            "ALTER TABLE ONLY public.{name}\n    ADD CONSTRAINT {name}_pkey PRIMARY KEY (id);\n\n\n"
        );
    }
    text += "--\n-- PostgreSQL database dump complete\n--\n\n";
    if restrict {
        let _ = write!(text, "\\unrestrict {key}\n\n");
    }
    text
}

const SETTINGS: &str = "SET statement_timeout = 0;\nSET lock_timeout = 0;\n\
SET idle_in_transaction_session_timeout = 0;\nSET client_encoding = 'UTF8';\n\
SET standard_conforming_strings = on;\nSELECT pg_catalog.set_config('search_path', '', false);\n\
SET check_function_bodies = false;\nSET xmloption = content;\nSET client_min_messages = warning;\n\
SET row_security = off;\n\n";

const EXTENSIONS: &str = "DROP EXTENSION IF EXISTS pg_trgm;\n\
--\n-- Name: pg_trgm; Type: EXTENSION; Schema: -; Owner: -\n--\n\n\
CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;\n\n\n\
--\n-- Name: EXTENSION pg_trgm; Type: COMMENT; Schema: -; Owner: \n--\n\n\
COMMENT ON EXTENSION pg_trgm IS 'text similarity measurement and index searching based on trigrams';\n\n\n\
SET default_tablespace = '';\n\nSET default_table_access_method = heap;\n\n";

fn head(text: &mut String, name: &str, kind: &str, owner: &str) {
    let _ = write!(
        text,
        "--\n-- Name: {name}; Type: {kind}; Schema: public; Owner: {owner}\n--\n\n"
    );
}

impl Table {
    fn copy(&self, text: &mut String) {
        let Table {
            name,
            columns,
            rows,
        } = self;
        let names: Vec<_> = columns.iter().map(|(column, _)| *column).collect();
        let _ = write!(
            text,
            "--\n-- Data for Name: {name}; Type: TABLE DATA; Schema: public; Owner: gitlab\n--\n\n\
             COPY public.{name} ({}) FROM stdin;\n",
            names.join(", ")
        );
        for row in rows {
            assert_eq!(row.len(), columns.len(), "{name}");
            let values: Vec<_> = row.iter().map(escaped).collect();
            *text += &values.join("\t");
            *text += "\n";
        }
        *text += "\\.\n\n\n";
    }
}

/// As COPY writes it: <https://www.postgresql.org/docs/current/sql-copy.html>, "text format".
fn escaped(value: &Value) -> String {
    let Some(value) = value else {
        return "\\N".to_owned();
    };
    let mut text = String::new();
    for c in value.chars() {
        match c {
            '\\' => text += "\\\\",
            '\n' => text += "\\n",
            '\r' => text += "\\r",
            '\t' => text += "\\t",
            other => text.push(other),
        }
    }
    text
}

/// Names and types.
type Columns = &'static [(&'static str, &'static str)];

const CI_VARIABLES: Columns = &[
    ("id", "bigint NOT NULL"),
    ("key", "character varying NOT NULL"),
    ("encrypted_value", "text"),
    ("project_id", "bigint NOT NULL"),
];
const NAMESPACES: Columns = &[
    ("id", "bigint NOT NULL"),
    ("name", "character varying NOT NULL"),
    ("path", "character varying NOT NULL"),
    (
        "type",
        "character varying DEFAULT 'User'::character varying NOT NULL",
    ),
    ("parent_id", "bigint"),
];
const PROJECT_REPOSITORIES: Columns = &[
    ("id", "bigint NOT NULL"),
    ("shard_id", "bigint NOT NULL"),
    ("disk_path", "character varying NOT NULL"),
    ("project_id", "bigint NOT NULL"),
];
const PROJECTS: Columns = &[
    ("id", "bigint NOT NULL"),
    ("name", "character varying"),
    ("path", "character varying"),
    ("description", "text"),
    ("created_at", "timestamp without time zone"),
    ("namespace_id", "bigint NOT NULL"),
    ("archived", "boolean DEFAULT false NOT NULL"),
    (
        "repository_storage",
        "character varying DEFAULT 'default'::character varying NOT NULL",
    ),
];
const ROUTES: Columns = &[
    ("id", "bigint NOT NULL"),
    ("source_id", "bigint NOT NULL"),
    ("source_type", "character varying NOT NULL"),
    ("path", "character varying NOT NULL"),
    ("created_at", "timestamp without time zone"),
    ("name", "character varying"),
];

const AT: &str = "2023-12-16 20:29:43.123456";

fn tables(projects: &BTreeMap<u64, String>, secrets: &str) -> Vec<Table> {
    let some = |text: &str| Some(text.to_owned());
    let number = |number: u64| Some(number.to_string());
    // The groups `demo` and `demo/apps`, and the administrator's own namespace.
    let groups = [
        (1, "root", "Administrator", "User", None),
        (2, "demo", "Demo", "Group", None),
        (3, "demo/apps", "Apps", "Group", Some(2)),
    ];
    let namespace = |path: &str| {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let found = groups.iter().find(|(_, path, ..)| *path == parent);
        found.expect("a namespace").0
    };
    let mut namespaces = Vec::new();
    let mut routes = Vec::new();
    for (id, path, name, kind, parent) in groups {
        let last = path.rsplit('/').next().unwrap_or(path);
        let parent = parent.and_then(number);
        namespaces.push(vec![number(id), some(name), some(last), some(kind), parent]);
        routes.push(vec![
            number(id),
            number(id),
            some("Namespace"),
            some(path),
            some(AT),
            some(name),
        ]);
    }
    let mut rows = Vec::new();
    let mut places = Vec::new();
    let mut variables = Vec::new();
    for (id, path) in projects {
        let last = path.rsplit('/').next().unwrap_or(path);
        // Everything COPY has to escape, and a line that looks like the end of the data.
        let description = (*id == 1).then(|| "Straße\n\\.\n\tC:\\new\r\n".to_owned());
        rows.push(vec![
            number(*id),
            some(last),
            some(last),
            description,
            some(AT),
            number(namespace(path)),
            some("f"),
            some("default"),
        ]);
        routes.push(vec![
            number(groups.len() as u64 + id),
            number(*id),
            some("Project"),
            some(path),
            some(AT),
            some(&path.replace('/', " / ")),
        ]);
        places.push(vec![
            number(*id),
            some("1"),
            Some(hashed("@hashed", *id)),
            number(*id),
        ]);
        // Stands for what the secrets encrypt: no other file reads it.
        variables.push(vec![
            number(*id),
            some("DEPLOY_TOKEN"),
            Some(sha256(secrets.as_bytes())),
            number(*id),
        ]);
    }
    vec![
        Table {
            name: "ci_variables",
            columns: CI_VARIABLES,
            rows: variables,
        },
        Table {
            name: "namespaces",
            columns: NAMESPACES,
            rows: namespaces,
        },
        Table {
            name: "project_repositories",
            columns: PROJECT_REPOSITORIES,
            rows: places,
        },
        Table {
            name: "projects",
            columns: PROJECTS,
            rows,
        },
        Table {
            name: "routes",
            columns: ROUTES,
            rows: routes,
        },
    ]
}

/// 17.8.2 → 1708.
pub fn number(version: &str) -> u64 {
    let mut numbers = version.split('.').map_while(|part| part.parse().ok());
    let mut next = || numbers.next().unwrap_or(0_u64);
    next() * 100 + next()
}
