//! How each client connects to the broker that the demonstration leaves running.

/// One way to connect.
pub(super) struct Way {
    /// The client.
    pub(super) client: &'static str,
    /// What must be installed for it.
    pub(super) needs: &'static str,
    /// What to type.
    pub(super) code: String,
}

/// Returns a way for each client. `uri` has a scheme, `endpoint` has none.
pub(super) fn ways(uri: &str, endpoint: &str) -> Vec<Way> {
    let way = |client, needs, code: &str| Way {
        client,
        needs,
        code: code.replace("{uri}", uri).replace("{endpoint}", endpoint),
    };
    vec![
        way(
            "weir",
            "this program",
            "export WEIR_SERVER={uri}\n\
             weir consume flights --where \"dest = 'HNL'\" --limit 5\n\
             weir pull flights --where \"dep_delay > 120\" --columns carrier,flight,dep_delay -o late.parquet\n\
             weir query \"SELECT dest, count(*) FROM flights GROUP BY dest ORDER BY 2 DESC LIMIT 5\"",
        ),
        way(
            "Python",
            "pip install rocketmq-python-client",
            "from rocketmq import ClientConfiguration, Credentials, FilterExpression, FilterType, SimpleConsumer\n\
             c = SimpleConsumer(ClientConfiguration(\"{endpoint}\", Credentials()), \"my-group\",\n    \
             {\"flights\": FilterExpression(\"dest = 'HNL'\", FilterType.SQL)}); c.startup()\n\
             for m in c.receive(32, 15): print(m.properties, m.body); c.ack(m)",
        ),
        way(
            "Java",
            "org.apache.rocketmq:rocketmq-client-java",
            "ClientConfiguration.newBuilder().setEndpoints(\"{endpoint}\").enableSsl(false).build()\n\
             .setSubscriptionExpressions(Map.of(\"flights\", new FilterExpression(\"dest = 'HNL'\", FilterExpressionType.SQL92)))",
        ),
        way(
            "Go",
            "go get github.com/apache/rocketmq-clients/golang/v5",
            "rmq.EnableSsl = false\n\
             rmq.NewSimpleConsumer(&rmq.Config{Endpoint: \"{endpoint}\", ConsumerGroup: \"my-group\", Credentials: &credentials.SessionCredentials{}},\n    \
             rmq.WithSimpleAwaitDuration(5*time.Second), rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{\n        \
             \"flights\": rmq.NewFilterExpressionWithType(\"dest = 'HNL'\", rmq.SQL92)}))",
        ),
        way(
            "Rust",
            "cargo add rocketmq",
            "client_option.set_access_url(\"{endpoint}\"); client_option.set_enable_tls(false);\n\
             consumer.receive(\"flights\", &FilterExpression::new(FilterType::Sql, \"dest = 'HNL'\")).await?",
        ),
        way(
            "Node",
            "npm install rocketmq-client-nodejs",
            "new SimpleConsumer({ endpoints: '{endpoint}', consumerGroup: 'my-group', namespace: '',\n  \
             subscriptions: new Map().set('flights', new FilterExpression(\"dest = 'HNL'\", FilterType.SQL)) })",
        ),
        way(
            "pyarrow",
            "pip install pyarrow",
            "c = pyarrow.flight.connect(\"{uri}\")\n\
             info = c.get_flight_info(pyarrow.flight.FlightDescriptor.for_command(\n    \
             '{\"pull\":1,\"topic\":\"flights\",\"filter\":\"dep_delay > 60\",\"columns\":[\"carrier\",\"dep_delay\"]}'))\n\
             table = pyarrow.concat_tables(c.do_get(e.ticket).read_all() for e in info.endpoints)",
        ),
        way(
            "pandas, polars",
            "pip install adbc-driver-flightsql pyarrow pandas polars",
            "con = adbc_driver_flightsql.dbapi.connect(\"{uri}\", autocommit=True)\n\
             pandas.read_sql(\"SELECT * FROM flights WHERE dest = 'HNL'\", con)\n\
             polars.read_database(\"SELECT carrier, avg(dep_delay) FROM flights GROUP BY 1\", con)",
        ),
    ]
}
