//! Minting: claims and a private key become an access token.
//!
//! Called by the control plane when it issues a token. What is written here is exactly what `verify` accepts.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::{
    claims::{ACT_DEPTH_MAX, Claims},
    envelope::Header,
    key::{KeyError, SigningKey},
    secret::AccessToken,
    verify::TOKEN_BYTES_MAX,
};

/// A token that cannot be minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// The claims make a token that no verifier accepts.
    #[error("the token would be longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    /// It would end before it begins.
    #[error("the token would expire before it is issued")]
    Lifetime,
    /// More actors than a verifier accepts.
    #[error("the token would name more than {ACT_DEPTH_MAX} actors")]
    Actors,
    /// The claims could not be written as JSON.
    #[error("the claims cannot be written")]
    Claims,
    /// The key could not sign.
    #[error("the token cannot be signed")]
    Key(#[from] KeyError),
}

/// Signs the claims: a JWT in JWS compact form with header `{alg, kid, typ}`.
///
/// # Errors
/// When the token would be too long, name too many actors or have no lifetime, or when the key cannot sign.
pub fn mint(claims: &Claims, key: &SigningKey) -> Result<AccessToken, MintError> {
    if claims.exp <= claims.iat {
        return Err(MintError::Lifetime);
    }
    if claims.act.depth() > ACT_DEPTH_MAX {
        return Err(MintError::Actors);
    }
    let header = Header::new(key.algorithm().as_str(), key.kid());
    let encode = |json: serde_json::Result<Vec<u8>>| {
        json.map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_| MintError::Claims)
    };
    let mut token = encode(serde_json::to_vec(&header))? + "." + &encode(serde_json::to_vec(claims))?;
    let signature = key.sign(token.as_bytes())?;
    token.push('.');
    token.push_str(&URL_SAFE_NO_PAD.encode(signature));
    if token.len() > TOKEN_BYTES_MAX {
        return Err(MintError::TooLong);
    }
    Ok(AccessToken::new(token))
}
