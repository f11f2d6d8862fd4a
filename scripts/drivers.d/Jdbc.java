// pgjdbc, in one file that `java` runs as it is.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.Properties;
import org.postgresql.PGConnection;

public class Jdbc {
    static final int ROWS = 20000;

    interface Check {
        void run(Connection session) throws Exception;
    }

    static Connection connect(String... options) throws SQLException {
        var environment = System.getenv();
        var url = "jdbc:postgresql://" + environment.get("PGHOST") + ":" + environment.get("PGPORT") + "/" + environment.get("PGDATABASE");
        var properties = new Properties();
        properties.put("user", environment.get("PGUSER"));
        properties.put("password", environment.get("PGPASSWORD"));
        properties.put("sslmode", environment.getOrDefault("PGSSLMODE", "disable"));
        if (environment.containsKey("PGSSLROOTCERT")) properties.put("sslrootcert", environment.get("PGSSLROOTCERT"));
        for (var option : options) properties.put(option.split("=")[0], option.split("=")[1]);
        return DriverManager.getConnection(url, properties);
    }

    static void isTrue(boolean fact, String what) {
        if (!fact) throw new AssertionError(what);
    }

    static int failed = 0;

    static void check(String name, Check check, String... options) {
        try (var session = connect(options)) {
            check.run(session);
            System.out.println("ok      pgjdbc " + name);
        } catch (Throwable error) {
            failed++;
            System.out.println("FAILED  pgjdbc " + name);
            error.printStackTrace();
        }
    }

    static int ask(Statement statement, String query) throws SQLException {
        try (var rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getInt(1);
        }
    }

    public static void main(String[] arguments) {
        check("simple", session -> isTrue(ask(session.createStatement(), "SELECT 42") == 42, "42"), "preferQueryMode=simple");
        check("extended", session -> {
            var statement = session.prepareStatement("SELECT ?::int + 1");
            statement.setInt(1, 41);
            var rows = statement.executeQuery();
            isTrue(rows.next() && rows.getInt(1) == 42, "42");
        });
        check("named", session -> {
            var statement = session.prepareStatement("SELECT ?::int * 2");
            for (int number = 0; number < 50; number++) {
                statement.setInt(1, number);
                var rows = statement.executeQuery();
                isTrue(rows.next() && rows.getInt(1) == number * 2, "twice");
            }
        }, "prepareThreshold=1");
        check("pipelined", session -> {
            var statement = session.createStatement();
            statement.execute("CREATE TEMP TABLE p (id int PRIMARY KEY)");
            var insert = session.prepareStatement("INSERT INTO p VALUES (?)");
            for (int number = 0; number < 5000; number++) {
                insert.setInt(1, number);
                insert.addBatch();
            }
            isTrue(insert.executeBatch().length == 5000, "5000");
            isTrue(ask(statement, "SELECT count(*) FROM p") == 5000, "count");
        });
        check("copied", session -> {
            session.createStatement().execute("CREATE TEMP TABLE c (id int, x text)");
            var text = new StringBuilder();
            for (int number = 0; number < ROWS; number++) text.append(number).append('\t').append("x".repeat(100)).append('\n');
            var copy = session.unwrap(PGConnection.class).getCopyAPI();
            var bytes = text.toString().getBytes(StandardCharsets.UTF_8);
            isTrue(copy.copyIn("COPY c FROM STDIN", new ByteArrayInputStream(bytes)) == ROWS, "in");
            var out = new ByteArrayOutputStream();
            isTrue(copy.copyOut("COPY c TO STDOUT", out) == ROWS && out.size() == bytes.length, "out");
        });
        check("cursor", session -> {
            session.setAutoCommit(false);
            var statement = session.createStatement();
            statement.setFetchSize(100);
            long sum = 0;
            var rows = statement.executeQuery("SELECT i FROM generate_series(1, 10000) i");
            while (rows.next()) sum += rows.getInt(1);
            isTrue(sum == 50005000, "sum");
            session.commit();
        });
        check("cancelled", session -> {
            var statement = session.createStatement();
            statement.setQueryTimeout(1);
            try {
                statement.execute("SELECT pg_sleep(60)");
                isTrue(false, "not cancelled");
            } catch (SQLException error) {
                isTrue(error.getSQLState().equals("57014"), error.toString());
            }
            isTrue(ask(session.createStatement(), "SELECT 1") == 1, "1");
        });
        check("notified", session -> {
            session.createStatement().execute("LISTEN jdbc");
            try (var speaker = connect()) {
                speaker.createStatement().execute("SELECT pg_notify('jdbc', 'heard')");
            }
            var heard = session.unwrap(PGConnection.class).getNotifications(30000);
            isTrue(heard.length == 1 && heard[0].getParameter().equals("heard"), "heard");
        });
        check("written", session -> {
            var statement = session.createStatement();
            statement.execute("CREATE TABLE IF NOT EXISTS jdbc_t (id serial PRIMARY KEY, x date)");
            session.setAutoCommit(false);
            statement.execute("INSERT INTO jdbc_t (x) VALUES (current_date)");
            session.commit();
            session.setAutoCommit(true);
            isTrue(ask(statement, "SELECT count(*) FROM jdbc_t") > 0, "count");
            statement.execute("DROP TABLE jdbc_t");
        });
        System.exit(failed > 0 ? 1 : 0);
    }
}
