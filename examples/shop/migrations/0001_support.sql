CREATE TABLE "support_messages" (
	"session_id" text NOT NULL,
	"number" integer NOT NULL,
	"author" text NOT NULL,
	"text" text NOT NULL,
	"created_at" timestamp with time zone DEFAULT now() NOT NULL,
	CONSTRAINT "support_messages_session_id_number_pk" PRIMARY KEY("session_id","number")
);
