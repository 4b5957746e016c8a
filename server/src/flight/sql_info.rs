//! `GetSqlInfo`: what this server says of itself.
//!
//! JDBC loads everything once and casts each value to a fixed Java type, so the child of the union counts.
//! Left out on purpose: 562 (default isolation), which the protocol and JDBC type differently. Always
//! there, though short: 508 to 512, without which older drivers fail.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use arrow_array::RecordBatch;
use arrow_flight::sql::{
    SqlInfo::{self, *},
    SqlNullOrdering, SqlSupportedCaseSensitivity,
    metadata::{SqlInfoData, SqlInfoDataBuilder},
};
use arrow_schema::SchemaRef;
use tonic::Status;
use weir_engine::limits::SQL_BYTES_MAX;

use crate::context::VERSION;

static DATA: LazyLock<Result<SqlInfoData, String>> =
    LazyLock::new(|| build().build().map_err(|error| error.to_string()));

/// Returns the schema of the answer.
pub(crate) fn schema() -> SchemaRef {
    Arc::new(SqlInfoDataBuilder::schema().clone())
}

/// Returns the values of `ids`, or all of them if there are none.
pub(crate) fn answer(ids: &[u32]) -> Result<RecordBatch, Status> {
    // The kernel behind this takes time for every id that is asked for.
    if ids.len() > 1024 {
        return Err(Status::invalid_argument("more than 1,024 ids are asked for"));
    }
    let data = DATA.as_ref().map_err(|error| Status::internal(error.clone()))?;
    data.record_batch(ids.iter().copied()).map_err(|error| Status::internal(error.to_string()))
}

fn build() -> SqlInfoDataBuilder {
    let mut infos = SqlInfoDataBuilder::new();
    texts(&mut infos);
    flags(&mut infos);
    masks(&mut infos);
    limits(&mut infos);
    lists(&mut infos);
    infos.append(SqlSupportsConvert, BTreeMap::<i32, Vec<i32>>::new());
    infos
}

fn texts(infos: &mut SqlInfoDataBuilder) {
    for (id, value) in [
        (FlightSqlServerName, "Weir"),
        (FlightSqlServerVersion, VERSION),
        (FlightSqlServerArrowVersion, "1.3"),
        (SqlIdentifierQuoteChar, "\""),
        (SqlSearchStringEscape, "\\"),
        (SqlExtraNameCharacters, "%|-$"),
        (SqlSchemaTerm, "namespace"),
        (SqlProcedureTerm, "procedure"),
        (SqlCatalogTerm, "broker"),
    ] {
        infos.append(id, value);
    }
}

fn flags(infos: &mut SqlInfoDataBuilder) {
    let yes = [
        FlightSqlServerReadOnly,
        FlightSqlServerSql,
        SqlAllTablesAreSelectable,
        SqlSupportsColumnAliasing,
        SqlNullPlusNullIsNull,
        SqlSupportsTableCorrelationNames,
        SqlSupportsExpressionsInOrderBy,
        SqlSupportsOrderByUnrelated,
        SqlSupportsLikeEscapeClause,
        SqlSupportsNonNullableColumns,
        SqlCatalogAtStart,
        SqlCorrelatedSubqueriesSupported,
    ];
    let no = [
        FlightSqlServerSubstrait,
        FlightSqlServerCancel,
        FlightSqlServerBulkIngestion,
        FlightSqlServerIngestTransactionsSupported,
        SqlDdlCatalog,
        SqlDdlSchema,
        SqlDdlTable,
        SqlSupportsDifferentTableCorrelationNames,
        SqlSupportsIntegrityEnhancementFacility,
        SqlSelectForUpdateSupported,
        SqlStoredProceduresSupported,
        SqlMaxRowSizeIncludesBlobs,
        SqlTransactionsSupported,
        SqlDataDefinitionCausesTransactionCommit,
        SqlDataDefinitionsInTransactionsIgnored,
        SqlBatchUpdatesSupported,
        SqlSavepointsSupported,
        SqlNamedParametersSupported,
        SqlLocatorsUpdateCopy,
        SqlStoredFunctionsUsingCallSyntaxSupported,
    ];
    for (ids, value) in [(&yes[..], true), (&no[..], false)] {
        for id in ids {
            infos.append(*id, value);
        }
    }
}

fn masks(infos: &mut SqlInfoDataBuilder) {
    /// The bit of a value of an enumeration of the protocol.
    const fn bit(value: i32) -> i32 {
        1 << value
    }
    for (id, value) in [
        // No transactions: another value makes ADBC users run Begin and End around everything.
        (FlightSqlServerTransaction, 0),
        // Identifiers keep their case.
        (SqlIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32),
        (SqlQuotedIdentifierCase, SqlSupportedCaseSensitivity::SqlCaseSensitivityUnknown as i32),
        (SqlNullOrdering, SqlNullOrdering::SqlNullsSortedHigh as i32),
        // Group by beyond the select list, and unrelated to it.
        (SqlSupportedGroupBy, bit(0) | bit(1)),
        // Minimum, core and extended grammar.
        (SqlSupportedGrammar, bit(0) | bit(1) | bit(2)),
        (SqlAnsi92SupportedLevel, bit(0)),
        // Limited and full outer joins.
        (SqlOuterJoinsSupportLevel, bit(1) | bit(2)),
        (SqlSchemasSupportedActions, 0),
        (SqlCatalogsSupportedActions, 0),
        (SqlSupportedPositionedCommands, 0),
        // In comparisons, EXISTS, IN and quantified.
        (SqlSupportedSubqueries, bit(0) | bit(1) | bit(2)),
        // UNION and UNION ALL.
        (SqlSupportedUnions, bit(0) | bit(1)),
        (SqlSupportedTransactionsIsolationLevels, bit(0)),
        // Forward only.
        (SqlSupportedResultSetTypes, bit(1)),
        (SqlSupportedConcurrenciesForResultSetUnspecified, 0),
        // Read only.
        (SqlSupportedConcurrenciesForResultSetForwardOnly, bit(1)),
        (SqlSupportedConcurrenciesForResultSetScrollSensitive, 0),
        (SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0),
    ] {
        infos.append(id, value);
    }
}

/// 0 means: no limit, or none that is known.
fn limits(infos: &mut SqlInfoDataBuilder) {
    for id in (SqlMaxBinaryLiteralLength as u32..=SqlMaxRowSize as u32)
        .chain(SqlMaxStatements as u32..=SqlMaxUsernameLength as u32)
    {
        infos.append(id, 0_i64);
    }
    infos.append(SqlMaxStatementLength, SQL_BYTES_MAX as i64);
    infos.append(SqlDbSchemaNameLength, weir_engine::limits::NAMESPACE_CHARS_MAX as i64);
    infos.append(SqlMaxTableNameLength, weir_engine::limits::TOPIC_NAME_CHARS_MAX as i64);
}

fn lists(infos: &mut SqlInfoDataBuilder) {
    let list = |words: &str| words.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let all: [(SqlInfo, &str); 5] = [
        (SqlKeywords, "ILIKE LIMIT OFFSET QUALIFY RECURSIVE REGEXP SIMILAR"),
        (
            SqlNumericFunctions,
            "abs acos asin atan atan2 ceil cos degrees exp floor ln log log10 log2 pi power radians round \
             signum sin sqrt tan trunc",
        ),
        (
            SqlStringFunctions,
            "ascii btrim character_length chr concat lower ltrim left length octet_length reverse right \
             rtrim split_part starts_with strpos substr trim upper",
        ),
        (SqlSystemFunctions, "coalesce nullif"),
        (
            SqlDatetimeFunctions,
            "current_date current_time date_bin date_part date_trunc now to_date to_timestamp",
        ),
    ];
    for (id, words) in all {
        infos.append(id, list(words));
    }
}

#[cfg(test)]
mod tests {
    use arrow_array::{cast::AsArray, types::UInt32Type};

    use super::*;

    fn ids(batch: &RecordBatch) -> Vec<u32> {
        batch.column(0).as_primitive::<UInt32Type>().values().to_vec()
    }

    #[test]
    fn values_are_of_the_types_that_jdbc_casts_to() {
        let all = answer(&[]).unwrap();
        assert_eq!(all.schema(), schema());
        let value = all.column(1).as_union();
        let child = |id: u32| {
            let row =
                ids(&all).iter().position(|known| *known == id).unwrap_or_else(|| panic!("{id} is missing"));
            value.type_id(row)
        };
        let groups: [(i8, &[u32]); 6] = [
            (0, &[0, 1, 2, 504, 513, 514, 529, 530, 531]),
            (
                1,
                &[
                    3, 4, 5, 9, 10, 500, 501, 502, 506, 515, 516, 518, 519, 520, 521, 523, 524, 527, 532,
                    536, 537, 539, 556, 563, 565, 566, 572, 573, 574, 575, 576,
                ],
            ),
            (
                2,
                &[
                    541, 542, 543, 544, 545, 546, 547, 548, 549, 550, 551, 552, 553, 554, 555, 557, 558, 559,
                    560, 561,
                ],
            ),
            (3, &[8, 503, 505, 507, 522, 525, 526, 528, 533, 534, 535, 538, 540, 564, 567]),
            (4, &[508, 509, 510, 511, 512]),
            (5, &[517]),
        ];
        for (expected, group) in groups {
            for id in group {
                assert_eq!(child(*id), expected, "{id}");
            }
        }
        assert!(!ids(&all).contains(&562));
    }

    #[test]
    fn asked_for_ids_come_alone_and_unknown_ones_not_at_all() {
        assert_eq!(ids(&answer(&[8, 0, 999_999]).unwrap()), [0, 8]);
        let transactions = answer(&[8]).unwrap();
        let value = transactions.column(1).as_union();
        assert_eq!(value.value(0).as_primitive::<arrow_array::types::Int32Type>().value(0), 0);
        assert!(answer(&[0; 1025]).is_err());
    }
}
