//! A table that only grows, in pieces: an entry never moves, and no memory waits for those that may come.
#![forbid(unsafe_code)]

use std::ops::{Index, IndexMut};

const PIECE: usize = 64;

pub struct Table<T> {
    pieces: Vec<Vec<T>>,
}

impl<T> Table<T> {
    pub fn new() -> Self {
        Table { pieces: Vec::new() }
    }

    pub fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    pub fn push(&mut self, one: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(one),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(one);
                self.pieces.push(piece);
            }
        }
    }

    pub fn get(&self, at: usize) -> Option<&T> {
        self.pieces.get(at / PIECE)?.get(at % PIECE)
    }

    pub fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.pieces.get_mut(at / PIECE)?.get_mut(at % PIECE)
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.pieces.iter().flatten()
    }
}

impl<T> Index<usize> for Table<T> {
    type Output = T;

    fn index(&self, at: usize) -> &T {
        &self.pieces[at / PIECE][at % PIECE]
    }
}

impl<T> IndexMut<usize> for Table<T> {
    fn index_mut(&mut self, at: usize) -> &mut T {
        &mut self.pieces[at / PIECE][at % PIECE]
    }
}
