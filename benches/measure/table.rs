//! [`Table`]: printed for people as it is made, kept for machines.

use serde_json::{Value, json as value};

/// A field of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    number: Option<f64>,
    /// The number is not what it is to be.
    missed: bool,
}

impl Cell {
    pub fn text(text: impl Into<String>) -> Self {
        Cell { text: text.into(), number: None, missed: false }
    }

    pub fn none() -> Self {
        Cell::text("")
    }

    pub fn number(number: f64, decimals: usize) -> Self {
        Cell { text: format!("{number:.decimals$}"), number: Some(number), missed: false }
    }

    pub fn count(number: u64) -> Self {
        Cell::number(number as f64, 0)
    }

    pub fn at_most(mut self, bound: f64) -> Self {
        self.missed |= self.number.is_some_and(|number| number > bound);
        self
    }

    pub fn at_least(mut self, bound: f64) -> Self {
        self.missed |= self.number.is_some_and(|number| number < bound);
        self
    }
}

/// Rows under heads, in Markdown; numbers that are not what they are to be are bold.
pub struct Table {
    title: String,
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Print title and heads.
    pub fn new(title: impl Into<String>, heads: &[&'static str]) -> Self {
        let table = Table { title: title.into(), heads: heads.to_vec(), rows: vec![] };
        println!("{}\n\n| {} |\n|---|{}", table.title, heads.join(" | "), "---:|".repeat(heads.len() - 1));
        table
    }

    /// Print a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        assert_eq!(cells.len(), self.heads.len(), "a cell for each head");
        print!("|");
        for Cell { text, missed, .. } in &cells {
            if *missed { print!(" **{text}** |") } else { print!(" {text} |") }
        }
        println!();
        self.rows.push(cells);
    }

    /// Print the end.
    pub fn end(self) -> Self {
        println!();
        self
    }

    fn json(&self) -> Value {
        let row = |cells: &Vec<Cell>| -> serde_json::Map<_, _> {
            let value = |cell: &Cell| cell.number.map_or_else(|| value!(cell.text), |number| value!(number));
            self.heads.iter().zip(cells).map(|(&head, cell)| (head.to_owned(), value(cell))).collect()
        };
        value!({ "title": self.title, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }
}

/// Every number of the tables, for machines.
pub fn json(tables: &[Table]) -> String {
    format!("{:#}\n", value!(tables.iter().map(Table::json).collect::<Vec<_>>()))
}
