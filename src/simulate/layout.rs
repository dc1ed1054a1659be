//! The layout file of a simulated site, for `import-layout`.

use std::fmt::{self, Display, Formatter};

use super::catalog::{
    BOARD_DEPTH_MM, BOARD_WIDTH_MM, CatalogBoard, FURNITURE_PITCH_MM, SiteCatalog,
};

/// Height of a shelf, millimetres.
const SHELF_HEIGHT_MM: i32 = 40;
/// Distance between the shelves of a furniture, millimetres.
const SHELF_PITCH_MM: i32 = 350;
/// Number of pieces of furniture in one row.
const FURNITURE_A_ROW: i32 = 3;
/// Distance between two rows of furniture, millimetres.
const ROW_PITCH_MM: i32 = 1_800;
/// Names of the furniture, in turn.
const NAMES: [&str; 6] = [
    "Medication cabinet",
    "Dressing trolley",
    "Sterile store",
    "Instrument cabinet",
    "Linen rack",
    "Emergency trolley",
];

/// The YAML of all boards of a catalog, by furniture and shelf.
#[derive(Debug, Clone, Copy)]
pub struct CatalogLayout<'a>(pub &'a SiteCatalog);

impl Display for CatalogLayout<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "# The simulated boards, for `centiloc-bridge import-layout`.")?;
        writeln!(f, "furniture:")?;
        let by_furniture = self.0.boards.chunk_by(|a, b| a.furniture_sn == b.furniture_sn);
        for (index, boards) in (0..).zip(by_furniture) {
            furniture(f, index, boards)?;
        }
        Ok(())
    }
}

fn furniture(f: &mut Formatter<'_>, index: i32, boards: &[CatalogBoard]) -> fmt::Result {
    let name = NAMES.iter().cycle().nth(usize::try_from(index).unwrap_or_default());
    let shelves = || boards.chunk_by(|a, b| a.shelf_sn == b.shelf_sn);
    let width = shelves().map(shelf_width).max().unwrap_or_default();
    let height = shelves().map(|boards| level(boards) + 1).max().unwrap_or_default();
    let [x, y] = boards.iter().find_map(|board| board.floor_offset_mm).unwrap_or([
        index % FURNITURE_A_ROW * FURNITURE_PITCH_MM,
        800 + index / FURNITURE_A_ROW * ROW_PITCH_MM,
    ]);
    for board in boards.iter().take(1) {
        writeln!(f, "  - sn: {}", board.furniture_sn)?;
    }
    writeln!(f, "    name: {}", name.copied().unwrap_or_default())?;
    writeln!(f, "    floor: Ward 1")?;
    writeln!(f, "    dimensions_mm: [{width}, {BOARD_DEPTH_MM}, {}]", height * SHELF_PITCH_MM)?;
    writeln!(f, "    offsets_mm: [{x}, {y}, 0]")?;
    writeln!(f, "    rot_angles: [0, 0, 0]")?;
    writeln!(f, "    shelves:")?;
    shelves().try_for_each(|boards| shelf(f, boards))
}

fn shelf(f: &mut Formatter<'_>, boards: &[CatalogBoard]) -> fmt::Result {
    let Some(first) = boards.first() else { return Ok(()) };
    let width = shelf_width(boards);
    writeln!(f, "      - sn: {}", first.shelf_sn)?;
    writeln!(f, "        floor: {}", first.floor)?;
    writeln!(f, "        dimensions_mm: [{width}, {BOARD_DEPTH_MM}, {SHELF_HEIGHT_MM}]")?;
    writeln!(f, "        offsets_mm: [0, 0, {}]", first.floor * SHELF_PITCH_MM)?;
    writeln!(f, "        rot_angles: [0, 0, 0]")?;
    writeln!(f, "        boards:")?;
    for board in boards {
        writeln!(f, "          - sn: {}", board.sn)?;
        writeln!(f, "            offsets_mm: [{}, 0]", board.shelf_offset_mm)?;
        writeln!(f, "            z_rot_angle: 0")?;
        writeln!(f, "            dimensions_mm: [{BOARD_WIDTH_MM}, {BOARD_DEPTH_MM}]")?;
    }
    if first.loc_reference.is_empty() {
        return Ok(());
    }
    writeln!(f, "        locations:")?;
    writeln!(f, "          - reference: {}", first.loc_reference)?;
    writeln!(f, "            weight: 1")?;
    writeln!(f, "            origin_coord: [0, 0]")?;
    writeln!(f, "            dimensions_mm: [{width}, {BOARD_DEPTH_MM}]")?;
    if !first.loc_labels.is_empty() {
        writeln!(f, "            labels: [{}]", first.loc_labels.join(", "))?;
    }
    Ok(())
}

fn shelf_width(boards: &[CatalogBoard]) -> i32 {
    boards.iter().map(|board| board.shelf_offset_mm + BOARD_WIDTH_MM).max().unwrap_or_default()
}

fn level(boards: &[CatalogBoard]) -> i32 {
    boards.iter().map(|board| board.floor).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::read;

    #[test]
    fn layout_has_every_board_at_its_place() {
        let catalog = SiteCatalog::new("acme", 90, 1, 1);
        let file = CatalogLayout(&catalog).to_string();
        let found = read([("site.yaml", file.as_bytes())]);
        assert_eq!((&found.problems, &found.notices), (&vec![], &vec![]));
        let layout = found.layout;
        assert_eq!((layout.furniture.len(), layout.shelves.len()), (5, 23));
        assert_eq!(layout.boards.len(), 90);
        for board in &catalog.boards {
            let here = layout.boards.iter().find(|here| here.board_sn == board.sn).unwrap();
            assert_eq!(here.shelf_sn, board.shelf_sn);
            assert_eq!((here.x_mm, here.y_mm), (Some(board.shelf_offset_mm.into()), Some(0.0)));
            let shelf = layout.shelves.iter().find(|s| s.shelf_sn == here.shelf_sn).unwrap();
            assert_eq!(shelf.furniture_sn.as_ref(), Some(&board.furniture_sn));
            assert_eq!(shelf.floor, Some(board.floor));
            assert!(shelf.place.width_mm >= here.x_mm.zip(here.width_mm).map(|(x, w)| x + w));
            let location = layout.locations.iter().find(|l| l.shelf_sn == here.shelf_sn);
            let reference = location.map(|l| l.loc_reference.as_str()).unwrap_or_default();
            assert_eq!(reference, board.loc_reference);
        }
    }

    #[test]
    fn pieces_of_furniture_do_not_overlap() {
        let catalog = SiteCatalog::new("acme", 200, 1, 1);
        let file = CatalogLayout(&catalog).to_string();
        let layout = read([("site.yaml", file.as_bytes())]).layout;
        let corner = |place: crate::layout::LayoutPlace| {
            [place.x_mm, place.y_mm, place.width_mm, place.depth_mm].map(Option::unwrap)
        };
        for (n, one) in layout.furniture.iter().enumerate() {
            for other in &layout.furniture[n + 1..] {
                let ([x, y, width, depth], to) = (corner(one.place), corner(other.place));
                let is_beside = x + width <= to[0] || to[0] + to[2] <= x;
                let is_behind = y + depth <= to[1] || to[1] + to[3] <= y;
                assert!(is_beside || is_behind, "{one:?} {other:?}");
            }
        }
    }
}
