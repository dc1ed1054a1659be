//! The layout of a site: where furniture, shelves, boards and named locations are.
//!
//! The vendor's file format is public only by the names of its keys. [`read`] accepts the
//! arrangements of these keys that have one meaning, and reports all others.

pub mod changes;
mod fields;
mod reader;
#[cfg(test)]
mod tests;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

pub use self::reader::read;

/// Most bytes of a file.
pub const MAX_FILE: u64 = 8 * 1024 * 1024;

/// Furniture, shelves, boards and locations. Each serial number and each location of a shelf occurs once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SiteLayout {
    /// Furniture.
    pub furniture: Vec<LayoutFurniture>,
    /// Shelves.
    pub shelves: Vec<LayoutShelf>,
    /// Boards. Each is on a shelf of the layout.
    pub boards: Vec<LayoutBoard>,
    /// Named locations. Each is on a shelf of the layout.
    pub locations: Vec<LayoutLocation>,
}

/// Place and size of a furniture or shelf. Millimetres and degrees, `None` if the file has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of the tables have comments")]
pub struct LayoutPlace {
    pub x_mm: Option<f64>,
    pub y_mm: Option<f64>,
    pub z_mm: Option<f64>,
    pub x_rotation: Option<f64>,
    pub y_rotation: Option<f64>,
    pub z_rotation: Option<f64>,
    pub width_mm: Option<f64>,
    pub depth_mm: Option<f64>,
    pub height_mm: Option<f64>,
}

/// A row of `layout_furniture`. The fields of this type and the following ones are the columns.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of the tables have comments")]
pub struct LayoutFurniture {
    pub furniture_sn: String,
    pub name: Option<String>,
    pub floor: Option<String>,
    #[serde(flatten)]
    pub place: LayoutPlace,
    pub extra: Option<Map<String, Value>>,
}

/// A row of `layout_shelf`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of the tables have comments")]
pub struct LayoutShelf {
    pub shelf_sn: String,
    pub furniture_sn: Option<String>,
    pub name: Option<String>,
    pub floor: Option<i32>,
    #[serde(flatten)]
    pub place: LayoutPlace,
    pub led_strips: Option<Value>,
    pub extra: Option<Map<String, Value>>,
}

/// A row of `layout_board`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of the tables have comments")]
pub struct LayoutBoard {
    pub board_sn: String,
    pub shelf_sn: String,
    pub x_mm: Option<f64>,
    pub y_mm: Option<f64>,
    pub z_rotation: Option<f64>,
    pub width_mm: Option<f64>,
    pub depth_mm: Option<f64>,
    pub extra: Option<Map<String, Value>>,
}

/// A row of `layout_location`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the columns of the tables have comments")]
pub struct LayoutLocation {
    pub loc_reference: String,
    pub shelf_sn: String,
    pub weight: Option<f64>,
    pub x_mm: Option<f64>,
    pub y_mm: Option<f64>,
    pub width_mm: Option<f64>,
    pub depth_mm: Option<f64>,
    pub labels: Option<Vec<String>>,
    pub extra: Option<Map<String, Value>>,
}

/// A line of a file. Lines are counted from one, 0 is the file as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileLine {
    /// The file, as the operator named it.
    pub file: String,
    /// The line.
    pub line: usize,
}

/// A key of a file, with a remark about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRemark {
    /// The line of the key or of its value.
    #[serde(flatten)]
    pub place: FileLine,
    /// Path to the key, such as `shelves[2].boards[0].offsets_mm`. Empty for the file as a whole.
    pub key: String,
    /// The value expected and found, or the treatment of the key.
    pub text: String,
}

/// The content of files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LayoutFindings {
    /// The layout. Incomplete if there are problems.
    pub layout: SiteLayout,
    /// The place of each board in the files.
    pub board_places: BTreeMap<String, FileLine>,
    /// Furniture whose shelves are listed with it: these are all its shelves.
    pub complete_furniture: BTreeSet<String>,
    /// Reasons to refuse the files.
    pub problems: Vec<FileRemark>,
    /// Keys that are kept without being used, and ignored ones.
    pub notices: Vec<FileRemark>,
}

impl fmt::Display for FileLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

impl fmt::Display for FileRemark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.key.is_empty() { "" } else { ": " };
        write!(f, "{}: {}{separator}{}", self.place, self.key, self.text)
    }
}
