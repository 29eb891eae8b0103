//! Arguments of a call, refused the way the service refuses them: unknown fields and wrong types are a 400 text.

use serde_json::{Map, Value};

use super::answer::{Answer, Stop, bad_input};

/// A JSON object of a call's argument.
pub struct Arguments<'a> {
    call: &'a str,
    fields: &'a Map<String, Value>,
}

impl<'a> Arguments<'a> {
    /// The object, if it has no other fields than `known`.
    pub fn of(call: &'a str, value: &'a Value, known: &[&str]) -> Answer<Self> {
        let Some(fields) = value.as_object() else {
            return Err(bad_input(call, "request body: expected object"));
        };
        if let Some(unknown) = fields.keys().find(|name| !known.contains(&name.as_str())) {
            return Err(bad_input(
                call,
                format!("request body: unknown field '{unknown}'"),
            ));
        }
        Ok(Self { call, fields })
    }

    /// A field that may be absent or null.
    fn field(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, what: &str) -> Stop {
        bad_input(self.call, format!("request body: {name}: {what}"))
    }

    /// A field that is required.
    pub fn value(&self, name: &str) -> Answer<&'a Value> {
        self.field(name).ok_or_else(|| {
            bad_input(
                self.call,
                format!("request body: missing required field '{name}'"),
            )
        })
    }

    /// A required text.
    pub fn text(&self, name: &str) -> Answer<&'a str> {
        self.value(name)?
            .as_str()
            .ok_or_else(|| self.wrong(name, "expected string"))
    }

    /// A text that may be absent.
    pub fn optional_text(&self, name: &str) -> Answer<Option<&'a str>> {
        match self.field(name) {
            None => Ok(None),
            Some(value) => value
                .as_str()
                .map(Some)
                .ok_or_else(|| self.wrong(name, "expected string")),
        }
    }

    /// A truth value, false if absent.
    pub fn flag(&self, name: &str) -> Answer<bool> {
        match self.field(name) {
            None => Ok(false),
            Some(value) => value
                .as_bool()
                .ok_or_else(|| self.wrong(name, "expected boolean")),
        }
    }

    /// A whole number that may be absent.
    pub fn optional_number(&self, name: &str) -> Answer<Option<u64>> {
        match self.field(name) {
            None => Ok(None),
            Some(value) => value
                .as_u64()
                .map(Some)
                .ok_or_else(|| self.wrong(name, "expected integer")),
        }
    }

    /// A required whole number.
    pub fn number(&self, name: &str) -> Answer<u64> {
        self.value(name)?;
        Ok(self.optional_number(name)?.unwrap_or_default())
    }

    /// A required list of at most `most` values.
    pub fn list(&self, name: &str, most: usize) -> Answer<&'a [Value]> {
        match self.value(name)?.as_array() {
            Some(list) if list.len() <= most => Ok(list),
            Some(_) => Err(self.wrong(name, &format!("list must have at most {most} items"))),
            None => Err(self.wrong(name, "expected list")),
        }
    }

    /// The tag and the payload of a union, which is an object or the bare tag; `default` if absent.
    pub fn union(&self, name: &str, default: &'a str) -> Answer<(&'a str, &'a Value)> {
        match self.field(name) {
            None => Ok((default, &Value::Null)),
            Some(Value::String(tag)) => Ok((tag, &Value::Null)),
            Some(object) => {
                let tag = object[".tag"]
                    .as_str()
                    .ok_or_else(|| self.wrong(name, "missing '.tag' key"))?;
                Ok((tag, &object[tag]))
            }
        }
    }

    /// 400 because a field's value is of no known kind.
    pub fn unacceptable(&self, name: &str, what: &str) -> Stop {
        self.wrong(name, what)
    }
}
