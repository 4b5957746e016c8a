//! Accounts: who may call, and how callers prove who they are.
//!
//! What an account may do is not asked yet: who is let in may do everything. Roles, permissions and audit will ask
//! the [`Principal`].

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};

use crate::{
    limits::{ACCOUNT_NAME_BYTES_MAX, ACCOUNT_SECRET_BYTES, ACCOUNTS_MAX},
    signing::Signer,
    time::Time,
};

/// How long a token is good for. Clients that are still there then show their secret again.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
const TOKEN: &str = "account-token";
const SECRET: &str = "account-secret";
/// Stands in for the secret of an account that does not exist, so that asking for it takes as long.
const NO_SECRET: &str = "no account has this secret";

/// An account as it is configured.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// The name: the access key of RocketMQ clients, the user of all others. 1 to 128 visible ASCII characters without
    /// `/`, `:` and `,`.
    pub name: String,
    /// The secret: the secret key of RocketMQ clients, the password of all others. 8 to 1,024 bytes.
    pub secret: String,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why accounts cannot be used. Nothing of it tells a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountError {
    /// The name breaks the rule.
    #[error(
        "{name:?} is no name of an account: it is 1 to {ACCOUNT_NAME_BYTES_MAX} visible ASCII characters without \
         '/', ':' and ','"
    )]
    Name {
        /// The name, shortened.
        name: String,
    },
    /// The secret is too short or too long.
    #[error("the secret of {name} has {bytes} bytes; it is {} to {} long", ACCOUNT_SECRET_BYTES.start(), ACCOUNT_SECRET_BYTES.end())]
    Secret {
        /// The account.
        name: String,
        /// How long the secret is.
        bytes: usize,
    },
    /// Two accounts have one name.
    #[error("the account {name} is there twice")]
    Twice {
        /// The name.
        name: String,
    },
    /// There are too many, or none.
    #[error("there are {count} accounts; 1 to {ACCOUNTS_MAX} can be used")]
    Count {
        /// How many.
        count: usize,
    },
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// Anybody: the broker has no accounts.
    Anonymous,
    /// The account of this name.
    Account(Arc<str>),
}

/// Why a caller is not let in. Whether an account exists is told to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unauthenticated {
    /// The caller says nothing of who it is.
    #[error("this broker wants to know who calls; give the name and the secret of an account")]
    Missing,
    /// Name, secret, signature or token is wrong.
    #[error("the name or the secret of the account is wrong")]
    Wrong,
    /// The token was good once.
    #[error("the token is no longer good; ask for another with the secret of the account")]
    Expired,
}

/// The accounts of a broker: none, so that everybody is let in, or those that were set last.
pub struct Accounts {
    secrets: ArcSwapOption<HashMap<Arc<str>, String>>,
    signer: Signer,
    time: Time,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.secrets.load().as_ref().map(|secrets| secrets.len());
        f.debug_struct("Accounts").field("count", &count).finish_non_exhaustive()
    }
}

impl Accounts {
    pub(crate) fn new(signer: Signer, time: Time) -> Self {
        Self { secrets: ArcSwapOption::empty(), signer, time }
    }

    /// Lets in these accounts alone, from the next call on. Tokens of accounts that are gone, or have another secret, are
    /// no longer good.
    ///
    /// # Errors
    ///
    /// If they break a rule; then those before stay.
    pub fn set(&self, accounts: Vec<Account>) -> Result<(), AccountError> {
        if !(1..=ACCOUNTS_MAX).contains(&accounts.len()) {
            return Err(AccountError::Count { count: accounts.len() });
        }
        let mut secrets = HashMap::with_capacity(accounts.len());
        for Account { name, secret } in accounts {
            if !is_name(&name) {
                return Err(AccountError::Name { name: name.chars().take(ACCOUNT_NAME_BYTES_MAX).collect() });
            }
            if !ACCOUNT_SECRET_BYTES.contains(&secret.len()) {
                return Err(AccountError::Secret { name, bytes: secret.len() });
            }
            if secrets.insert(Arc::from(name.as_str()), secret).is_some() {
                return Err(AccountError::Twice { name });
            }
        }
        self.secrets.store(Some(Arc::new(secrets)));
        Ok(())
    }

    /// Returns whether everybody is let in.
    pub fn is_open(&self) -> bool {
        self.secrets.load().is_none()
    }

    /// Lets in a caller that shows name and secret.
    ///
    /// # Errors
    ///
    /// If they are wrong. That takes as long for each wrong secret, and for each account that does not exist.
    pub fn by_secret(&self, name: &str, secret: &str) -> Result<Principal, Unauthenticated> {
        let given = self.signer.tag(SECRET, secret.as_bytes());
        self.by_proof(name, |of_account| self.signer.is_tag_of(SECRET, of_account, &given))
    }

    /// Lets in a caller that proves to know the secret of an account: `proves` is asked with the secret, and must take
    /// constant time.
    ///
    /// # Errors
    ///
    /// If the proof is wrong, or there is no such account.
    pub fn by_proof(
        &self,
        name: &str,
        proves: impl FnOnce(&[u8]) -> bool,
    ) -> Result<Principal, Unauthenticated> {
        let secrets = self.secrets.load();
        let Some(secrets) = secrets.as_ref() else { return Ok(Principal::Anonymous) };
        let known = secrets.get_key_value(name);
        let is_proven = proves(known.map_or(NO_SECRET, |(_, secret)| secret).as_bytes());
        match known {
            Some((name, _)) if is_proven => Ok(Principal::Account(Arc::clone(name))),
            _ => Err(Unauthenticated::Wrong),
        }
    }

    /// Lets in a caller that shows name and secret, and returns a token by which it is let in for a day, as long as the
    /// secret stays the same. Without accounts the token is good for naming a session, and for nothing else.
    ///
    /// # Errors
    ///
    /// As [`by_secret`](Self::by_secret).
    pub fn token_by_secret(&self, name: &str, secret: &str) -> Result<String, Unauthenticated> {
        let Principal::Account(name) = self.by_secret(name, secret)? else {
            return Ok(
                BASE64_URL_SAFE_NO_PAD.encode(self.signer.sign(TOKEN, uuid::Uuid::new_v4().as_bytes()))
            );
        };
        let life = i64::try_from(TOKEN_LIFE.as_millis()).unwrap_or(i64::MAX);
        let until = self.time.wall_ms().saturating_add(life).to_le_bytes();
        // Of the secret that was shown: the account may have another by now.
        let fingerprint = self.fingerprint(&name, secret);
        let text = [&until, fingerprint.as_slice(), name.as_bytes()].concat();
        Ok(BASE64_URL_SAFE_NO_PAD.encode(self.signer.sign(TOKEN, &text)))
    }

    /// Lets in a caller that shows a token. Without accounts any text is good: it names a session.
    ///
    /// # Errors
    ///
    /// If the token is not ours or too old, or the account is gone or has another secret.
    pub fn by_token(&self, token: &str) -> Result<Principal, Unauthenticated> {
        let secrets = self.secrets.load();
        let Some(secrets) = secrets.as_ref() else { return Ok(Principal::Anonymous) };
        let signed = BASE64_URL_SAFE_NO_PAD.decode(token).map_err(|_| Unauthenticated::Wrong)?;
        let bytes = self.signer.verify(TOKEN, &signed).ok_or(Unauthenticated::Wrong)?;
        let (until, rest) = bytes.split_first_chunk().ok_or(Unauthenticated::Wrong)?;
        let (fingerprint, name) = rest.split_first_chunk::<FINGERPRINT>().ok_or(Unauthenticated::Wrong)?;
        let name = str::from_utf8(name).map_err(|_| Unauthenticated::Wrong)?;
        let (name, secret) = secrets.get_key_value(name).ok_or(Unauthenticated::Wrong)?;
        // The token is signed: nobody can try fingerprints one after the other.
        if self.fingerprint(name, secret) != *fingerprint {
            return Err(Unauthenticated::Wrong);
        }
        if self.time.wall_ms() >= i64::from_le_bytes(*until) {
            return Err(Unauthenticated::Expired);
        }
        Ok(Principal::Account(Arc::clone(name)))
    }

    /// Returns what changes with the secret and does not tell it.
    fn fingerprint(&self, name: &str, secret: &str) -> [u8; FINGERPRINT] {
        let text = [name.as_bytes(), &[0], secret.as_bytes()].concat();
        self.signer.tag(SECRET, &text)
    }
}

const FINGERPRINT: usize = 16;

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b',');
    (1..=ACCOUNT_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_storage::VirtualClock;

    const SECRET_OF_ANN: &str = "ann's secret";

    fn account(name: &str, secret: &str) -> Account {
        Account { name: name.to_owned(), secret: secret.to_owned() }
    }

    fn accounts() -> (Accounts, Arc<VirtualClock>) {
        let clock = Arc::new(VirtualClock::new(1_767_225_600_000));
        let time = Time::new(Arc::clone(&clock) as Arc<dyn crate::Clock>);
        (Accounts::new(Signer::new([7; 32]), time), clock)
    }

    fn ann() -> Principal {
        Principal::Account("ann".into())
    }

    #[test]
    fn without_accounts_everybody_is_let_in() {
        let (accounts, _) = accounts();
        assert!(accounts.is_open());
        assert_eq!(accounts.by_secret("x", "y"), Ok(Principal::Anonymous));
        assert_eq!(accounts.by_token("anything"), Ok(Principal::Anonymous));
        let token = accounts.token_by_secret("x", "y").unwrap();
        accounts.set(vec![account("ann", SECRET_OF_ANN)]).unwrap();
        assert_eq!(accounts.by_token(&token), Err(Unauthenticated::Wrong), "a token of before");
    }

    #[test]
    fn only_who_knows_the_secret_is_let_in() {
        let (accounts, _) = accounts();
        accounts.set(vec![account("ann", SECRET_OF_ANN), account("bob", "bob's secret")]).unwrap();
        assert!(!accounts.is_open());
        assert_eq!(accounts.by_secret("ann", SECRET_OF_ANN), Ok(ann()));
        for (name, secret) in
            [("ann", "bob's secret"), ("ann", ""), ("eve", SECRET_OF_ANN), ("eve", NO_SECRET), ("", "")]
        {
            assert_eq!(accounts.by_secret(name, secret), Err(Unauthenticated::Wrong), "{name} {secret}");
        }
        assert_eq!(accounts.by_proof("eve", |_| true), Err(Unauthenticated::Wrong));
        assert_eq!(accounts.by_proof("ann", |secret| secret == SECRET_OF_ANN.as_bytes()), Ok(ann()));
    }

    #[test]
    fn tokens_end_with_time_and_with_the_secret() {
        let (accounts, clock) = accounts();
        accounts.set(vec![account("ann", SECRET_OF_ANN)]).unwrap();
        let token = accounts.token_by_secret("ann", SECRET_OF_ANN).unwrap();
        assert_eq!(accounts.by_token(&token), Ok(ann()));
        for at in 0..token.len() {
            let mut other = token.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            let other = String::from_utf8(other).unwrap();
            assert_eq!(accounts.by_token(&other), Err(Unauthenticated::Wrong), "{at}");
        }
        clock.advance(TOKEN_LIFE.checked_sub(Duration::from_secs(1)).unwrap());
        assert_eq!(accounts.by_token(&token), Ok(ann()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(accounts.by_token(&token), Err(Unauthenticated::Expired));
        assert_eq!(accounts.token_by_secret("ann", "wrong secret"), Err(Unauthenticated::Wrong));
        let token = accounts.token_by_secret("ann", SECRET_OF_ANN).unwrap();
        accounts.set(vec![account("ann", "another secret")]).unwrap();
        assert_eq!(accounts.by_token(&token), Err(Unauthenticated::Wrong));
        accounts.set(vec![account("bob", SECRET_OF_ANN)]).unwrap();
        assert_eq!(accounts.by_token(&token), Err(Unauthenticated::Wrong));
    }

    #[test]
    fn what_breaks_a_rule_leaves_all_as_it_was() {
        let (accounts, _) = accounts();
        accounts.set(vec![account("ann", SECRET_OF_ANN)]).unwrap();
        let long = "x".repeat(129);
        for wrong in [
            vec![],
            vec![account("", "12345678")],
            vec![account("a/b", "12345678")],
            vec![account("a:b", "12345678")],
            vec![account("a b", "12345678")],
            vec![account("é", "12345678")],
            vec![account(&long, "12345678")],
            vec![account("a", "1234567")],
            vec![account("a", &"s".repeat(1025))],
            vec![account("a", "12345678"), account("a", "87654321")],
        ] {
            let error = accounts.set(wrong).unwrap_err().to_string();
            assert!(!error.contains("1234567"), "{error}");
        }
        assert_eq!(accounts.by_secret("ann", SECRET_OF_ANN), Ok(ann()));
        assert!(!format!("{accounts:?} {:?}", account("ann", SECRET_OF_ANN)).contains("secret of"));
    }
}
