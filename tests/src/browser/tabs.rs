//! More than one page: tabs, the way back and again, pages within a page; and what a field holds that nobody sees.
//!
//! All commands go to the tab that was chosen last.

use anyhow::Result;
use serde_json::json;

use super::{Browser, On};

impl Browser {
    /// Goes on in another tab of the same person, counted from zero; the next number opens an empty one.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn tab(&mut self, number: usize) -> Result<()> {
        self.ask(json!({"do": "tab", "number": number})).await
    }

    /// Presses the back button, and gives where that led.
    ///
    /// # Errors
    /// When it leads nowhere.
    pub async fn back(&mut self) -> Result<String> {
        self.ask(json!({"do": "back"})).await
    }

    /// Loads the page again, and sends the form again that it answers. Gives the status.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn reload(&mut self) -> Result<u16> {
        self.ask(json!({"do": "reload"})).await
    }

    /// What can be read in each page within the page.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn frames(&mut self) -> Result<Vec<String>> {
        self.ask(json!({"do": "frames"})).await
    }

    /// What a field holds, also a hidden one.
    ///
    /// # Errors
    /// When there is no such field, or there are several.
    pub async fn value(&mut self, on: On<'_>) -> Result<String> {
        self.ask(json!({"do": "value", "on": on})).await
    }
}
