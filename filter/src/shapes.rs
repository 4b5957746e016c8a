//! What a selector has been bound to, kept by the shape of the rows.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::RwLock;

use crate::compile::Form;

/// How many shapes of rows are kept.
const SHAPES_MAX: usize = 64;

/// Something that fits rows whose columns have certain forms.
pub(crate) trait Bind {
    /// Whether it fits columns of these forms.
    fn fits(&self, forms: &[Form]) -> bool;
}

/// What has been bound, by the numbers of shapes.
#[derive(Debug)]
pub(crate) struct ByShape<B>(RwLock<HashMap<u64, Arc<B>, foldhash::fast::RandomState>>);

impl<B> Default for ByShape<B> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<B: Bind> ByShape<B> {
    /// Returns what fits rows of this shape, whose columns have these forms; binds it if there is none yet.
    pub(crate) fn get(&self, shape: u64, forms: Vec<Form>, bind: impl FnOnce(Vec<Form>) -> B) -> Arc<B> {
        if let Some(bound) = self.0.read().get(&shape).filter(|bound| bound.fits(&forms)) {
            return Arc::clone(bound);
        }
        let bound = Arc::new(bind(forms));
        let mut kept = self.0.write();
        if kept.len() >= SHAPES_MAX && !kept.contains_key(&shape) {
            // Shapes come and go with blocks; binding costs microseconds.
            kept.clear();
        }
        kept.insert(shape, Arc::clone(&bound));
        bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Bind for Vec<Form> {
        fn fits(&self, forms: &[Form]) -> bool {
            self == forms
        }
    }

    #[test]
    fn a_bounded_number_is_kept_and_used_again() {
        let kept = ByShape::default();
        for shape in 0..1000 {
            let bound = kept.get(shape, vec![Form::Int], |forms| forms);
            assert!(kept.0.read().len() <= SHAPES_MAX);
            let again = kept.get(shape, vec![Form::Int], |_| panic!("it is there already"));
            assert!(Arc::ptr_eq(&bound, &again));
        }
        // A number that is used for other forms gets something that fits them.
        assert_eq!(*kept.get(999, vec![Form::Absent], |forms| forms), [Form::Absent]);
    }
}
