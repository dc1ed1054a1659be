//! Loads the schema: the shipped one, or the vendor's `.proto` or compiled descriptors.

use std::path::{Path, PathBuf};

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_types::FileDescriptorSet;

/// Compiled from `proto/transtream.proto` by the build script.
const SHIPPED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/transtream.binpb"));

/// The schema of `decode.proto_file` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("decode.proto_file {}: {problem}", path.display())]
pub struct ProtoSchemaError {
    /// The file named in the configuration.
    pub path: PathBuf,
    problem: SchemaProblem,
}

impl ProtoSchemaError {
    pub(super) fn new(path: Option<&Path>, problem: SchemaProblem) -> Self {
        let path = path.unwrap_or(Path::new("(built in) proto/transtream.proto"));
        Self { path: path.to_owned(), problem }
    }
}

/// The reason why a schema cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaProblem {
    #[error(
        "could not read it: {0}; check that the file exists and the service's user may read it"
    )]
    Read(#[from] std::io::Error),
    #[error(
        "could not compile it: {0}; it must be a .proto, with its imports in the same folder, or a \
         FileDescriptorSet made by `protoc --include_imports --descriptor_set_out=FILE`"
    )]
    Compile(String),
    #[error(
        "could not use its descriptors: {0}; make it with `protoc --include_imports \
         --descriptor_set_out=FILE`"
    )]
    Descriptors(String),
    #[error(
        "its file {0} is written in {1}, which cannot be read: expected proto2 or proto3; write \
         the fields of the events, with their numbers, in a file that begins with syntax = \
         \"proto3\";"
    )]
    Syntax(String, String),
    #[error(
        "it has no message with the fields of an event, which are {wanted}; it has {found}; name the \
         file that defines the events"
    )]
    NoMessage { wanted: String, found: String },
    #[error(
        "it defines no {0} message, but {1} subscribes to protobuf; name a file that has it, or set \
         {1} to \"json\" or \"off\""
    )]
    Uncovered(&'static str, &'static str),
    #[error(
        "both {first} and {second} could be the {kind} message: they have equally many of the \
         documented fields; name a file with only one of them"
    )]
    Ambiguous { kind: &'static str, first: String, second: String },
    #[error(
        "field {field} of message {message} is {found}, which cannot be read: expected {accepted}"
    )]
    FieldType { message: String, field: String, found: String, accepted: &'static str },
}

/// Loads the schema with the assumed numbers.
pub(super) fn shipped() -> Result<DescriptorPool, SchemaProblem> {
    DescriptorPool::decode(SHIPPED).map_err(|error| SchemaProblem::Descriptors(error.to_string()))
}

/// Loads the vendor's schema. The format of the file is recognised by its content, not by its name.
pub(super) fn vendor(path: &Path) -> Result<DescriptorPool, SchemaProblem> {
    let content = std::fs::read(path)?;
    if let Some(set) = descriptor_set(&content) {
        check_syntax(&set)?;
        // This pool has the well-known types, for sets made without imports.
        let mut pool = DescriptorPool::global();
        pool.decode_file_descriptor_set(content.as_slice())
            .map_err(|error| SchemaProblem::Descriptors(error.to_string()))?;
        return Ok(pool);
    }
    compile(path)
}

/// Returns the descriptors of a compiled file. Text is never taken for one: it does not parse as a set
/// of named files.
fn descriptor_set(content: &[u8]) -> Option<FileDescriptorSet> {
    FileDescriptorSet::decode(content)
        .ok()
        .filter(|set| !set.file.is_empty() && set.file.iter().all(|file| !file.name().is_empty()))
}

/// Refuses editions, on which prost-reflect panics instead of returning an error.
fn check_syntax(set: &FileDescriptorSet) -> Result<(), SchemaProblem> {
    let is_known = |syntax: &str| matches!(syntax, "" | "proto2" | "proto3");
    match set.file.iter().find(|file| !is_known(file.syntax())) {
        None => Ok(()),
        Some(file) => Err(SchemaProblem::Syntax(
            file.name().to_owned(),
            file.syntax().escape_debug().to_string(),
        )),
    }
}

fn compile(path: &Path) -> Result<DescriptorPool, SchemaProblem> {
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    // The Debug form of protox errors is `file:line:column: message`. Display omits the position.
    let explain = |error: protox::Error| SchemaProblem::Compile(format!("{error:?}"));
    let mut compiler = protox::Compiler::new([folder]).map_err(explain)?;
    compiler.open_file(path).map_err(explain)?;
    Ok(compiler.descriptor_pool())
}

#[cfg(test)]
mod tests {
    use prost_types::FileDescriptorProto;

    use super::*;

    #[test]
    fn descriptor_sets_have_named_files() {
        let file = |name: Option<&str>| FileDescriptorProto {
            name: name.map(Into::into),
            ..FileDescriptorProto::default()
        };
        let set = |file: Vec<_>| descriptor_set(&FileDescriptorSet { file }.encode_to_vec());
        assert!(set(vec![file(Some("vendor.proto"))]).is_some());
        assert!(set(vec![]).is_none());
        assert!(set(vec![file(Some("vendor.proto")), file(None)]).is_none());
    }
}
