//! The fixed part of a simulation: the places of the boards and the products of the tags.

use super::rng::SeededRng;

/// Number of boards on one shelf.
const BOARDS_A_SHELF: u32 = 4;
/// Number of shelves in one furniture.
const SHELVES_A_FURNITURE: u32 = 5;
/// Number of furnitures with a surveyed place on the floor. The others send no floor position.
const SURVEYED_FURNITURES: u32 = 2;
/// Width of a board's surface, millimetres.
pub const BOARD_WIDTH_MM: i32 = 400;
/// Depth of a board's surface, millimetres.
pub const BOARD_DEPTH_MM: i32 = 300;
/// Distance between the left edges of neighbouring furniture, millimetres.
pub const FURNITURE_PITCH_MM: i32 = 2_500;
/// Distance between the left edges of neighbouring boards, millimetres.
const BOARD_PITCH_MM: i32 = 420;

/// A board at its place in a shelf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogBoard {
    /// Serial number of the board.
    pub sn: String,
    /// Serial number of its shelf.
    pub shelf_sn: String,
    /// Serial number of its furniture.
    pub furniture_sn: String,
    /// Level of the shelf in the furniture.
    pub floor: i32,
    /// Left edge on the shelf, millimetres.
    pub shelf_offset_mm: i32,
    /// Corner of the furniture on the floor, millimetres, or `None` if it is not surveyed.
    pub floor_offset_mm: Option<[i32; 2]>,
    /// Named location, empty if there is none.
    pub loc_reference: String,
    /// Labels of the location.
    pub loc_labels: Vec<String>,
    /// Firmware version of the board.
    pub fw_version: String,
}

/// An item with its tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogItem {
    /// Identifier of the tag.
    pub uid: String,
    /// Product that the tag is enrolled to, empty if it is not enrolled.
    pub product_reference: String,
    /// Labels of the item.
    pub labels: Vec<String>,
}

/// All boards and items of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteCatalog {
    /// Tenant of all boards and items.
    pub tenant: String,
    /// Boards of the site, at least one.
    pub boards: Vec<CatalogBoard>,
    /// Items of the site, at least one, each with its own uid.
    pub items: Vec<CatalogItem>,
}

impl SiteCatalog {
    /// Creates a catalog with at least one board and one item. The same arguments give the same
    /// catalog.
    pub fn new(tenant: &str, boards: u32, items: u32, seed: u64) -> Self {
        let mut rng = SeededRng::new(seed);
        let first_tag = rng.next_u32();
        Self {
            tenant: tenant.to_owned(),
            boards: (0..boards.max(1)).map(board).collect(),
            items: (0..items.max(1)).map(|index| item(index, first_tag, &mut rng)).collect(),
        }
    }
}

fn board(index: u32) -> CatalogBoard {
    let shelf = index / BOARDS_A_SHELF;
    let furniture = shelf / SHELVES_A_FURNITURE;
    let slot = signed(index % BOARDS_A_SHELF);
    let located = shelf % SHELVES_A_FURNITURE != SHELVES_A_FURNITURE - 1;
    let surveyed = furniture < SURVEYED_FURNITURES;
    CatalogBoard {
        sn: format!("CB{:06}", index + 1),
        shelf_sn: format!("SH-{:03}", shelf + 1),
        furniture_sn: format!("FU-{:02}", furniture + 1),
        floor: signed(shelf % SHELVES_A_FURNITURE),
        shelf_offset_mm: slot * BOARD_PITCH_MM,
        floor_offset_mm: surveyed.then(|| [signed(furniture) * FURNITURE_PITCH_MM, 800]),
        loc_reference: if located { format!("LOC-{:02}", shelf + 1) } else { String::new() },
        loc_labels: match shelf % 3 {
            0 if located => vec!["cold".to_owned(), format!("bay-{}", furniture + 1)],
            1 if located => vec![format!("bay-{}", furniture + 1)],
            _ => Vec::new(),
        },
        fw_version: if index % 7 == 6 { "5.0.9" } else { "5.1.2" }.to_owned(),
    }
}

fn item(index: u32, first_tag: u32, rng: &mut SeededRng) -> CatalogItem {
    // Multiplication by an odd factor permutes the 32-bit numbers, so that no two items share a
    // tag.
    let tag = index.wrapping_mul(0x9E37_79B1).wrapping_add(first_tag);
    let enrolled = rng.percent(90);
    let reference = rng.below(500) + 1;
    CatalogItem {
        uid: format!("E0040150{tag:08X}"),
        product_reference: if enrolled { format!("REF-{reference:04}") } else { String::new() },
        labels: match rng.below(4) {
            0 => vec!["fragile".to_owned()],
            1 => vec!["fragile".to_owned(), "sterile".to_owned()],
            _ => Vec::new(),
        },
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn serials_and_tags_are_distinct() {
        let catalog = SiteCatalog::new("acme", 200, 5_000, 7);
        let uids: HashSet<_> = catalog.items.iter().map(|i| i.uid.as_str()).collect();
        let serials: HashSet<_> = catalog.boards.iter().map(|b| b.sn.as_str()).collect();
        assert_eq!(uids.len(), 5_000);
        assert_eq!(serials.len(), 200);
        assert!(uids.iter().all(|uid| uid.len() == 16 && uid.starts_with("E0040150")));
    }

    #[test]
    fn catalog_is_determined_by_its_seed() {
        assert_eq!(SiteCatalog::new("acme", 9, 50, 1), SiteCatalog::new("acme", 9, 50, 1));
        assert_ne!(SiteCatalog::new("acme", 9, 50, 1), SiteCatalog::new("acme", 9, 50, 2));
    }

    #[test]
    fn catalog_has_at_least_one_board_and_item() {
        let catalog = SiteCatalog::new("acme", 0, 0, 1);
        assert_eq!((catalog.boards.len(), catalog.items.len()), (1, 1));
    }

    #[test]
    fn some_items_and_boards_lack_details() {
        let catalog = SiteCatalog::new("acme", 40, 200, 3);
        assert!(catalog.items.iter().any(|i| i.product_reference.is_empty()));
        assert!(catalog.items.iter().any(|i| i.labels.is_empty()));
        assert!(catalog.boards.iter().any(|b| b.loc_reference.is_empty()));
        assert!(catalog.boards.iter().any(|b| b.loc_labels.is_empty()));
        assert!(catalog.boards.iter().any(|b| b.floor > 0));
    }
}
