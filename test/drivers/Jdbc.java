/*
 * JDBC, extended and with the argument "simple" in its simple mode; see the file
 * steps.
 */
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;

import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.jdbc.PgConnection;

public class Jdbc {
    static final String NOTIFY = "SELECT pg_notify(?, ?)";
    static final int TIMEOUT = 60_000;
    static final Map<String, Connection> sessions = new HashMap<>();
    static boolean simple;

    static Connection connect(String port) throws SQLException {
        Map<String, String> env = System.getenv();
        Properties properties = new Properties();
        properties.setProperty("user", env.get("PGUSER"));
        properties.setProperty("password", env.get("PGPASSWORD"));
        if (simple) {
            properties.setProperty("preferQueryMode", "simple");
        }
        return DriverManager.getConnection("jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get(port) + "/"
                + env.get("PGDATABASE"), properties);
    }

    static void run(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static String value(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(sql)) {
            rows.next();
            return rows.getString(1);
        }
    }

    static void notify(Connection connection, String channel, String payload, int count) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(NOTIFY)) {
            for (int i = 0; i < Math.max(count, 1); i++) {
                statement.setString(1, channel);
                statement.setString(2, count == 0 ? payload : payload + (i + 1));
                statement.execute();
            }
        }
    }

    static List<String> hear(Connection connection, int count) throws SQLException {
        PGConnection own = connection.unwrap(PGConnection.class);
        List<String> found = new ArrayList<>();
        while (found.size() < count) {
            PGNotification[] some = own.getNotifications(TIMEOUT);
            if (some == null || some.length == 0) {
                break;
            }
            for (PGNotification n : some) {
                found.add((n.getPID() == own.getBackendPID() ? "own " : "other ") + n.getName() + " "
                        + n.getParameter());
            }
        }
        return found;
    }

    static List<String> extras() throws SQLException {
        Connection connection = sessions.get("other");
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        connection.setReadOnly(true);
        connection.setAutoCommit(false);
        notify(connection, "drivers_end", "a", 0);
        Savepoint savepoint = connection.setSavepoint();
        notify(connection, "drivers_end", "no", 0);
        connection.rollback(savepoint);
        connection.releaseSavepoint(savepoint);
        connection.commit();
        int isolation = connection.getTransactionIsolation();
        connection.rollback();
        connection.setAutoCommit(true);
        connection.setReadOnly(false);
        try (PreparedStatement statement = connection.prepareStatement(NOTIFY)) {
            for (String payload : Arrays.asList("b", "c")) {
                statement.setString(1, "drivers_end");
                statement.setString(2, payload);
                statement.addBatch();
            }
            try {
                statement.executeBatch();
            } catch (SQLException e) {
                /* it returns rows, which the driver finds wrong after it has sent it */
                run(connection, "NOTIFY drivers_end, 'd'");
            }
        }
        run(connection, "NOTIFY drivers_end, 'e'");
        List<String> found = new ArrayList<>();
        while (found.isEmpty() || !found.get(found.size() - 1).endsWith(" e")) {
            found.addAll(hear(sessions.get("listener"), 1));
        }
        return Arrays.asList("ok isolation " + isolation + ", savepoints, a batch: " + found,
                "ok schema " + connection.getSchema() + ", valid " + connection.isValid(10));
    }

    static List<String> step(String action, String[] words) throws SQLException {
        if (action.equals("channel")) {
            return Arrays.asList();
        }
        if (action.equals("extras")) {
            return extras();
        }
        if (action.equals("connect")) {
            sessions.put(words[1], connect(words[1].equals("other") ? "OTHER_PORT" : "PGPORT"));
            return Arrays.asList("ok");
        }
        Connection connection = sessions.get(words[1]);
        switch (action) {
            case "close":
                connection.close();
                break;
            case "pid":
                return Arrays.asList(value(connection, "SELECT pg_backend_pid()").equals(
                        String.valueOf(connection.unwrap(PGConnection.class).getBackendPID())) ? "own" : "another");
            case "run":
                run(connection, words[2]);
                break;
            case "listen":
                run(connection, "LISTEN " + connection.unwrap(PGConnection.class).escapeIdentifier(words[2]));
                break;
            case "value":
                return Arrays.asList(value(connection, words[2]));
            case "notify":
            case "binary":
                notify(connection, words[2], words[3], 0);
                break;
            case "prepared":
                notify(connection, words[3], words[4], Integer.parseInt(words[2]));
                break;
            case "hear":
                return hear(connection, Integer.parseInt(words[2]));
            case "begin":
                connection.setAutoCommit(false);
                break;
            case "commit":
                connection.commit();
                connection.setAutoCommit(true);
                break;
            case "rollback":
                connection.rollback();
                connection.setAutoCommit(true);
                break;
            case "alive":
                return Arrays.asList(connection.isValid(10) ? "ok" : "dead");
            case "cancel":
                connection.unwrap(PgConnection.class).cancelQuery();
                break;
            case "reset":
                run(connection, "DISCARD ALL");
                break;
            default:
                throw new SQLException("unknown: " + action);
        }
        return Arrays.asList("ok");
    }

    public static void main(String[] args) throws Exception {
        simple = args.length > 0 && args[0].equals("simple");
        PrintStream out = new PrintStream(System.out, true, "UTF-8");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] words = line.split("\t");
            out.println(line);
            try {
                for (String said : step(words[0], words)) {
                    out.println("= " + said);
                }
            } catch (SQLException e) {
                out.println("= error " + (e.getSQLState() == null ? e.toString() : e.getSQLState()));
            }
        }
    }
}
