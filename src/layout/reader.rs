//! Files to furniture, shelves, boards and locations.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::fields::{Fields, FileRemarks, list_of};
use super::yaml::{YamlNode, YamlValue, parse};
use super::{
    FileLine, LayoutBoard, LayoutFindings, LayoutFurniture, LayoutLocation, LayoutPlace,
    LayoutShelf, MAX_FILE,
};
use crate::encoding;

const XYZ: [&str; 3] = ["x", "y", "z"];

/// Keys that only a shelf has.
const OF_SHELF: [&str; 4] = ["boards", "locations", "led_strips", "furniture_sn"];

/// Reads files, each with its name and content. Every problem of every file is reported.
pub fn read<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> LayoutFindings {
    let mut reader = LayoutReader::default();
    for (file, bytes) in files {
        let mut remarks = FileRemarks { file, problems: Vec::new(), notices: Vec::new() };
        reader.read_file(bytes, &mut remarks);
        remarks.problems.sort_by_key(|problem| problem.place.line);
        reader.findings.problems.append(&mut remarks.problems);
        reader.findings.notices.append(&mut remarks.notices);
    }
    reader.findings
}

/// Something that occurs once in a layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LayoutKey {
    Furniture(String),
    Shelf(String),
    Board(String),
    Location { reference: String, shelf: String },
}

#[derive(Debug, Default)]
struct LayoutReader {
    findings: LayoutFindings,
    places: HashMap<LayoutKey, FileLine>,
}

impl LayoutReader {
    fn read_file(&mut self, bytes: &[u8], remarks: &mut FileRemarks<'_>) {
        let text = match text_of(bytes) {
            Ok(text) => text,
            Err((line, problem)) => return remarks.problem(line, "", problem),
        };
        let (documents, errors) = parse(&text);
        let is_empty = errors.is_empty() && documents.iter().all(YamlNode::is_null);
        for error in errors {
            remarks.problem(error.line, "", error.text);
        }
        for document in documents {
            self.document(document, remarks);
        }
        if is_empty {
            remarks.problem(0, "", "expected shelves or furniture, found nothing");
        }
    }

    fn document(&mut self, node: YamlNode, remarks: &mut FileRemarks<'_>) {
        if node.is_null() {
            return;
        }
        if matches!(node.value, YamlValue::List(_)) {
            for (n, node) in list_of(node, "", remarks).into_iter().enumerate() {
                self.shelf_or_furniture(node, &format!("[{n}]"), remarks);
            }
            return;
        }
        let is_section = |entry: &str| matches!(entry, "shelves" | "furniture");
        let has_sections = |node: &YamlNode| match &node.value {
            YamlValue::Mapping(entries) => {
                entries.iter().any(|entry| is_section(&entry.key))
                    && !entries.iter().any(|entry| entry.key == "sn")
            }
            _ => false,
        };
        if !has_sections(&node) {
            return self.shelf_or_furniture(node, "", remarks);
        }
        let Some(mut sections) = Fields::of(node, "", remarks) else { return };
        for furniture in sections.mappings("furniture", remarks) {
            self.furniture(furniture, remarks);
        }
        for shelf in sections.mappings("shelves", remarks) {
            self.shelf(shelf, None, remarks);
        }
        sections.ignore_rest(remarks);
    }

    fn shelf_or_furniture(&mut self, node: YamlNode, path: &str, remarks: &mut FileRemarks<'_>) {
        let Some(fields) = Fields::of(node, path, remarks) else { return };
        match (fields.has("shelves"), OF_SHELF.iter().any(|key| fields.has(key))) {
            (true, false) => self.furniture(fields, remarks),
            (false, true) => self.shelf(fields, None, remarks),
            (true, true) | (false, false) => {
                let text = format!(
                    "expected a shelf (with boards or locations) or furniture (with shelves), found {}; \
                     put it in a list below the key shelves or furniture",
                    fields.listed()
                );
                remarks.problem(fields.line, path, text);
            }
        }
    }

    fn furniture(&mut self, mut fields: Fields, remarks: &mut FileRemarks<'_>) {
        let line = fields.line;
        let sn = fields.name("sn", remarks);
        let has_shelves = fields.has("shelves");
        for shelf in fields.mappings("shelves", remarks) {
            self.shelf(shelf, sn.as_deref(), remarks);
        }
        let furniture = LayoutFurniture {
            name: fields.text("name", remarks),
            floor: fields.text("floor", remarks),
            place: place(&mut fields, remarks),
            furniture_sn: sn.unwrap_or_default(),
            extra: fields.rest(remarks),
        };
        let sn = &furniture.furniture_sn;
        if sn.is_empty() || !self.is_first(LayoutKey::Furniture(sn.clone()), line, remarks) {
            return;
        }
        if has_shelves {
            self.findings.complete_furniture.insert(sn.clone());
        }
        self.findings.layout.furniture.push(furniture);
    }

    fn shelf(&mut self, mut fields: Fields, parent: Option<&str>, remarks: &mut FileRemarks<'_>) {
        let line = fields.line;
        let shelf_sn = fields.name("sn", remarks).unwrap_or_default();
        let named = fields.text("furniture_sn", remarks);
        if let (Some(parent), Some(named)) = (parent, &named)
            && parent != named
        {
            let text = format!("expected {parent:?}, of which it is a shelf, found {named:?}");
            remarks.problem(line, &fields.path("furniture_sn"), text);
        }
        for board in fields.mappings("boards", remarks) {
            self.board(board, &shelf_sn, remarks);
        }
        for location in fields.mappings("locations", remarks) {
            self.location(location, &shelf_sn, remarks);
        }
        let row = LayoutShelf {
            furniture_sn: named.or_else(|| parent.map(str::to_owned)),
            name: fields.text("name", remarks),
            floor: fields.integer("floor", remarks),
            place: place(&mut fields, remarks),
            led_strips: fields.take("led_strips").map(|entry| entry.node.to_json()),
            extra: fields.rest(remarks),
            shelf_sn,
        };
        let sn = &row.shelf_sn;
        if !sn.is_empty() && self.is_first(LayoutKey::Shelf(sn.clone()), line, remarks) {
            self.findings.layout.shelves.push(row);
        }
    }

    fn board(&mut self, mut fields: Fields, shelf_sn: &str, remarks: &mut FileRemarks<'_>) {
        let line = fields.line;
        let Some(board_sn) = fields.name("sn", remarks) else { return };
        let offsets = fields.take_either(["offsets_mm", "offsets"], remarks);
        let [x_mm, y_mm] = fields.vector(offsets, XYZ, remarks);
        let [width_mm, depth_mm] = fields.size(remarks);
        let board = LayoutBoard {
            shelf_sn: shelf_sn.to_owned(),
            x_mm,
            y_mm,
            z_rotation: fields.number("z_rot_angle", remarks),
            width_mm,
            depth_mm,
            extra: fields.rest(remarks),
            board_sn,
        };
        let sn = &board.board_sn;
        if self.is_first(LayoutKey::Board(sn.clone()), line, remarks) {
            let place = FileLine { file: remarks.file.to_owned(), line };
            self.findings.board_places.insert(sn.clone(), place);
            self.findings.layout.boards.push(board);
        }
    }

    fn location(&mut self, mut fields: Fields, shelf_sn: &str, remarks: &mut FileRemarks<'_>) {
        let line = fields.line;
        let Some(loc_reference) = fields.name("reference", remarks) else { return };
        let origin = fields.take("origin_coord");
        let [x_mm, y_mm] = fields.vector(origin, XYZ, remarks);
        let [width_mm, depth_mm] = fields.size(remarks);
        let location = LayoutLocation {
            shelf_sn: shelf_sn.to_owned(),
            weight: fields.number("weight", remarks),
            x_mm,
            y_mm,
            width_mm,
            depth_mm,
            labels: fields.texts("labels", remarks),
            extra: fields.rest(remarks),
            loc_reference,
        };
        let key = LayoutKey::Location {
            reference: location.loc_reference.clone(),
            shelf: shelf_sn.to_owned(),
        };
        if self.is_first(key, line, remarks) {
            self.findings.layout.locations.push(location);
        }
    }

    /// Returns true for the first of its key. Reports a second one with both places.
    fn is_first(&mut self, key: LayoutKey, line: usize, remarks: &mut FileRemarks<'_>) -> bool {
        let thing = match &key {
            LayoutKey::Furniture(sn) => format!("furniture {sn:?}"),
            LayoutKey::Shelf(sn) => format!("shelf {sn:?}"),
            LayoutKey::Board(sn) => format!("board {sn:?}"),
            LayoutKey::Location { reference, shelf } => {
                format!("location {reference:?} of shelf {shelf:?}")
            }
        };
        match self.places.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(FileLine { file: remarks.file.to_owned(), line });
                true
            }
            Entry::Occupied(first) => {
                let text = format!("{thing} is also at {}: keep one", first.get());
                remarks.problem(line, "", text);
                false
            }
        }
    }
}

fn place(fields: &mut Fields, remarks: &mut FileRemarks<'_>) -> LayoutPlace {
    let offsets = fields.take_either(["offsets_mm", "offsets"], remarks);
    let [x_mm, y_mm, z_mm] = fields.vector(offsets, XYZ, remarks);
    let angles = fields.take("rot_angles");
    let [x_rotation, y_rotation, z_rotation] = fields.vector(angles, XYZ, remarks);
    let [width_mm, depth_mm, height_mm] = fields.size(remarks);
    LayoutPlace {
        x_mm,
        y_mm,
        z_mm,
        x_rotation,
        y_rotation,
        z_rotation,
        width_mm,
        depth_mm,
        height_mm,
    }
}

/// Returns the text of a file, or the line of the first byte that is no text.
fn text_of(bytes: &[u8]) -> Result<String, (usize, String)> {
    if bytes.len() as u64 > MAX_FILE {
        let limit = MAX_FILE / 1024 / 1024;
        return Err((0, format!("expected at most {limit} MiB; import several files")));
    }
    let bytes = encoding::to_utf8(bytes).map_err(|error| (0, error.to_string()))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = 1 + before.matches('\n').count();
            Err((line, "expected UTF-8; save the file in this encoding".to_owned()))
        }
    }
}
