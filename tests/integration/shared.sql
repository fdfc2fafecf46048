-- As pg_dump writes it.
create table dumped(id integer);
alter table dumped owner to test;
