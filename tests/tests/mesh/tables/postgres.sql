create type mood as enum ('sad','ok','happy');
create type pt as (x int, y numeric, label text);
create domain posint as int check (value > 0);
create extension hstore;
create table every (
 id serial primary key, b bool, i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8,
 n122 numeric(12,2), n3810 numeric(38,10), n50 numeric(50,5), n numeric, nneg numeric(5,-2), m money,
 t text, vc varchar(10), c char(5), js json, jb jsonb, u uuid, by bytea, e mood, d date, ti time, titz timetz,
 ts timestamp, tstz timestamptz, iv interval, ia int[], ta text[], na numeric(8,3)[], comp pt, dom posint,
 r4 int4range, rt tstzrange, h hstore, ine inet, mac macaddr, bits bit(3), vb varbit, tsv tsvector, x xml, p point, ea mood[], ca pt[], nm name, ch "char");
insert into every(b,i2,i4,i8,o,f4,f8,n122,n3810,n50,n,nneg,m,t,vc,c,js,jb,u,by,e,d,ti,titz,ts,tstz,iv,ia,ta,na,comp,dom,r4,rt,h,ine,mac,bits,vb,tsv,x,p,ea,ca,nm,ch) values
(true,-32768,-2147483648,-9223372036854775808,4294967295,1.5,-1e300,-9999999999.99,1234567890123456789012345678.0123456789,'123456789012345678901234567890123456789012345.12345',0.000000000000000000001234,12300,12.5,'héllo ''x''','abc','ab','{"a":1}','{"b":[1,2]}','a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11','\xdeadbeef','happy','2024-02-29','23:59:59.999999','12:00:00+02','1999-12-31 23:59:59.999999','2024-01-01 00:00:00+05:30','1 year 2 mons 3 days 04:05:06.7','{1,NULL,3}','{a,"b c",NULL}','{1.5,-2.25}','(1,2.50,"q")',5,'[1,10)','["2024-01-01 00:00:00+00",)','a=>1, b=>NULL','192.168.0.1/24','08:00:2b:01:02:03',B'101',B'10',to_tsvector('english','a fat cat'),'<a/>','(1,2)','{ok,sad}','{"(1,2,a)",NULL}','nm','c'),
(null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null,null),
(false,0,0,0,0,'NaN','Infinity','NaN','NaN',0,'NaN',0,0,'','','','null','null','00000000-0000-0000-0000-000000000000','','sad','infinity','24:00:00','00:00:00-15','infinity','-infinity','-1 mons','{}','{}','{}',null,1,'empty','(,)','','::1','00:00:00:00:00:00',B'000',B'','','','(0,0)','{}','{}','',''),
(false,1,1,1,1,'-Infinity',-0.0,0.01,-0.0000000001,-0.00001,123456789012345678901234567890.123,-100,-1,'x','x','x','[]','[]','ffffffff-ffff-ffff-ffff-ffffffffffff','\x00','ok','0001-01-01','00:00:00','23:59:59.999999+15','0001-01-01','294276-12-31 23:59:59.999999+00','-178000000 years','{{1,2},{3,4}}','[2:3]={x,y}','{0}','(,,)',2147483647,'(1,5]','[2024-01-01 00:00:00+00,2025-01-01 00:00:00+00]','k=>v','10.0.0.0/8','ff:ff:ff:ff:ff:ff',B'111',B'1111','x','<b/>','(-1,-1)','{happy}','{}','y','z');
