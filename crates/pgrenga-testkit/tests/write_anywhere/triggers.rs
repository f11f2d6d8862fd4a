//! The promise: what triggers and cascades do travels as the rows that they
//! changed, in the order in which they did, and runs on no other node again.

use anyhow::{Result, ensure};

use crate::CLUSTER;
use crate::everywhere::{NODES, notices, run, same};

/// Triggers that change the rows of the very statement that fired them, before
/// it, after it, and from within each other.
const CREATE: &str = "
    CREATE SCHEMA fired; SET search_path = fired;
    CREATE TABLE log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text, by text DEFAULT current_user);
    CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL, trace text NOT NULL DEFAULT '');
    CREATE TABLE part (id int PRIMARY KEY, item int REFERENCES item ON UPDATE CASCADE ON DELETE CASCADE, n int DEFAULT 0);
    CREATE TABLE leaf (id int PRIMARY KEY, part int REFERENCES part ON DELETE SET NULL, n int DEFAULT 0);

    CREATE FUNCTION before_item() RETURNS trigger LANGUAGE plpgsql SET search_path = fired AS $$ BEGIN
        NEW.trace := NEW.trace || 'b';
        -- The neighbour, before this row itself is there.
        UPDATE item SET trace = trace || 'n' WHERE id = NEW.id - 1 AND pg_trigger_depth() = 1;
        RETURN NEW;
    END $$;
    CREATE TRIGGER b BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION before_item();

    CREATE FUNCTION after_item() RETURNS trigger LANGUAGE plpgsql SET search_path = fired AS $$ BEGIN
        -- The same row again, until it has settled, from ever deeper triggers.
        UPDATE item SET n = n - 1, trace = trace || pg_trigger_depth() WHERE id = NEW.id AND n > 0;
        INSERT INTO log (what) VALUES (format('%s %s %s', TG_OP, NEW.id, pg_trigger_depth()));
        RETURN NULL;
    END $$;
    CREATE TRIGGER a AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION after_item();

    CREATE FUNCTION part_moved() RETURNS trigger LANGUAGE plpgsql SET search_path = fired AS $$ BEGIN
        UPDATE leaf SET n = n + 1 WHERE part = OLD.id;
        INSERT INTO log (what) VALUES ('part ' || TG_OP || OLD.id);
        RETURN coalesce(NEW, OLD);
    END $$;
    CREATE TRIGGER moved BEFORE UPDATE OR DELETE ON part FOR EACH ROW EXECUTE FUNCTION part_moved();

    CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql SET search_path = fired AS $$ BEGIN
        UPDATE item SET trace = trace || 'd' WHERE id = NEW.item;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER late AFTER INSERT ON part DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION at_commit();

    CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql SET search_path = fired AS $$ BEGIN
        INSERT INTO log (what) SELECT 'statement ' || count(*) FROM changed;
        RETURN NULL;
    END $$;
    CREATE TRIGGER s AFTER UPDATE ON leaf REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION counted();

    CREATE VIEW halves AS SELECT id, n / 2 AS half FROM item;
    CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql SET search_path = fired AS $$ BEGIN
        UPDATE item SET n = NEW.half * 2 WHERE id = NEW.id;
        RETURN NEW;
    END $$;
    CREATE TRIGGER i INSTEAD OF UPDATE ON halves FOR EACH ROW EXECUTE FUNCTION instead();
";

#[test]
fn triggers_and_cascades_end_the_same_everywhere() {
    CLUSTER.test(async |cluster| -> Result<()> {
        cluster.execute(0, CREATE).await?;
        for node in 0..NODES {
            cluster.settle().await?;
            let base = node * 100;
            let changes = format!(
                "SET search_path = fired;
                INSERT INTO item SELECT {base} + i, i % 4 FROM generate_series(1, 10) AS i;
                INSERT INTO part SELECT {base} + i, {base} + 1 + i % 10 FROM generate_series(1, 30) AS i;
                INSERT INTO leaf SELECT {base} + i, {base} + 1 + i % 30 FROM generate_series(1, 60) AS i;
                BEGIN; UPDATE item SET n = 3 WHERE id BETWEEN {base} + 2 AND {base} + 5;
                INSERT INTO part VALUES ({base} + 50, {base} + 3), ({base} + 51, {base} + 3); COMMIT;
                UPDATE item SET id = id + 50 WHERE id IN ({base} + 6, {base} + 7);
                DELETE FROM item WHERE id IN ({base} + 4, {base} + 8);
                UPDATE halves SET half = 2 WHERE id = {base} + 9"
            );
            run(cluster, node, &changes).await?;
            for table in ["item", "part", "leaf", "log"] {
                let rows = same(cluster, &format!("SELECT * FROM fired.{table} ORDER BY id")).await?;
                assert!(rows.lines().count() >= 8, "{table}: {rows}");
            }
        }
        // Nothing fired anywhere but at the origin: each change of an item was logged once.
        let unsettled = "SELECT count(*) FROM fired.item WHERE n <> 0";
        assert_eq!(same(cluster, unsettled).await?, "0");
        Ok(())
    });
}

#[test]
fn triggers_enabled_always_fire_where_the_change_is_made_alone() {
    CLUSTER.test(async |cluster| -> Result<()> {
        let create = "CREATE SCHEMA always; CREATE TABLE always.t (id int PRIMARY KEY);
            CREATE TABLE always.log (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, t int, kind text);
            CREATE FUNCTION always.fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO always.log (t, kind) VALUES (NEW.id, TG_NAME); RETURN NEW; END $$;
            CREATE TRIGGER always AFTER INSERT ON always.t FOR EACH ROW EXECUTE FUNCTION always.fired();
            CREATE TRIGGER replica AFTER INSERT ON always.t FOR EACH ROW EXECUTE FUNCTION always.fired();
            CREATE TRIGGER origin AFTER INSERT ON always.t FOR EACH ROW EXECUTE FUNCTION always.fired()";
        cluster.execute(0, create).await?;
        cluster.settle().await?;
        for kind in ["ALWAYS", "REPLICA"] {
            let enable = format!("ALTER TABLE always.t ENABLE {kind} TRIGGER {}", kind.to_lowercase());
            let said = notices(cluster, 1, &enable).await?;
            ensure!(said.len() == 1 && said[0].contains("never where it is applied"), "{kind}: {said:?}");
        }
        for node in 0..NODES {
            cluster.settle().await?;
            cluster.execute(node, &format!("INSERT INTO always.t VALUES ({node})")).await?;
        }
        let fired =
            same(cluster, "SELECT t, string_agg(kind, ' ' ORDER BY kind) FROM always.log GROUP BY t ORDER BY t")
                .await?;
        ensure!(fired == "0|always origin\n1|always origin\n2|always origin", "{fired}");
        Ok(())
    });
}
